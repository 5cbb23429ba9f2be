// Makes one element like another and touches only what differs, so that focus, scrolling and selections stay.

export function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  attributes(old, fresh);
  children(old, fresh);
}

function attributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

function children(old, fresh) {
  const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let here = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const found = wanted.id ? named.get(wanted.id) : like(here, wanted) ? here : null;
    if (found && found.nodeName === wanted.nodeName) {
      if (found === here) here = here.nextSibling;
      else old.insertBefore(found, here);
      alter(found, wanted);
    } else {
      const made = document.importNode(wanted, true);
      if (made.nodeName === "TR" && named.size) made.classList.add("fresh");
      old.insertBefore(made, here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

function like(here, wanted) {
  return here && here.nodeName === wanted.nodeName && !here.id && !wanted.id;
}

function alter(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  // A time that counts on by itself is left alone while it is the same moment.
  if (old.nodeName === "TIME" && old.dataset.at === fresh.dataset.at) return;
  morph(old, fresh);
}
