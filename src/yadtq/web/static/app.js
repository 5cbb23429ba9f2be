// Puts life into pages that can be read without it. A page is its URL: to be up to date it is fetched again, and the
// parts marked data-live are put in place. Text stays text: nothing here writes HTML or evaluates anything.

import { morph } from "./morph.js";

const UNITS = [[86400000, "d"], [3600000, "h"], [60000, "min"], [1000, "s"]];
const live = document.getElementById("live");
let stream = null;
let fetching = false;
let again = false;

function ago(at) {
  const age = Date.now() - at;
  if (age < 1000) return "just now";
  const [size, unit] = UNITS.find(([size]) => age >= size);
  return `${Math.floor(age / size).toLocaleString("en")} ${unit} ago`;
}

function tick() {
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = ago(Number(time.dataset.at));
    if (time.textContent !== text) time.textContent = text;
  }
}

function put(page, selector) {
  for (const fresh of page.querySelectorAll(selector)) {
    const old = document.getElementById(fresh.id);
    if (old) morph(old, fresh);
  }
  tick();
  prepare();
}

async function load(url, options) {
  const response = await fetch(url, { credentials: "same-origin", ...options });
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// One fetch at a time; what changes meanwhile is fetched by one more.
async function refresh() {
  if (fetching) {
    again = true;
    return;
  }
  fetching = true;
  try {
    do {
      again = false;
      put(await load(location.href), "[data-live]");
    } while (again);
  } catch {
    connected(false); // the server is gone; the stream comes back when it does, and brings the next event
  } finally {
    fetching = false;
  }
}

function connected(yes) {
  live.hidden = false;
  live.classList.toggle("live-off", !yes);
  live.querySelector(".live-text").textContent = yes ? "Live" : "Not connected";
}

function listen() {
  const watched = document.body.dataset.watch.split(" ");
  stream = new EventSource("/api/v1/events");
  stream.onopen = () => connected(true);
  stream.onerror = () => {
    connected(false);
    if (stream && stream.readyState === EventSource.CLOSED) setTimeout(() => { hush(); attend(); }, 2000);
  };
  stream.addEventListener("changed", (event) => {
    const changed = JSON.parse(event.data);
    if (changed.includes("notices") || changed.some((name) => watched.includes(name))) refresh();
  });
}

function hush() {
  if (stream) stream.close();
  stream = null;
}

// A browser opens six connections to a host, and hidden tabs would hold them all.
function attend() {
  if (document.hidden) hush();
  else if (!stream) listen();
}

async function send(form) {
  const button = form.querySelector("button.primary");
  button.setAttribute("aria-busy", "true");
  try {
    const page = await load(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    put(page, "[data-live]");
    // What was entered stays: the next task is often much like this one.
    put(page, "#answer");
    form.querySelector("[name=task_id]")?.setAttribute("value", "");
    if (form.elements.task_id && page.querySelector(".flash-good")) form.elements.task_id.value = "";
  } catch {
    document.getElementById("answer").textContent = "The web app does not answer. Is it still running?";
  } finally {
    button.removeAttribute("aria-busy");
  }
}

async function choose(form) {
  const url = `${form.action}?${new URLSearchParams(new FormData(form))}`;
  put(await load(url), "#submit");
  history.replaceState(null, "", url);
}

function prepare() {
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
}

document.addEventListener("submit", (event) => {
  if (event.target.matches("[data-submit]")) {
    event.preventDefault();
    send(event.target);
  }
});
document.addEventListener("change", (event) => {
  if (event.target.closest("#filters")) event.target.form.requestSubmit();
  if (event.target.closest("[data-choose]")) choose(event.target.form);
});
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
});
document.addEventListener("visibilitychange", attend);
addEventListener("pagehide", hush);
addEventListener("pageshow", attend);

document.documentElement.classList.add("scripted");
if (matchMedia("(max-width: 1080px)").matches && !document.querySelector(".flash")) {
  document.getElementById("submit")?.removeAttribute("open");
}
prepare();
attend();
setInterval(tick, 1000);
