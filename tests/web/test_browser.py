"""The pages in a real browser: they update by themselves, and what people typed stays text."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from scene import HOSTILE, Scene
from watched import Watched

from yadtq.broker import Message

HOUR_MS = 3_600_000
ODD = HOSTILE.replace("/", "")  # a worker's or task's name that is a script


def rows(page: Page) -> list[str]:
    return page.locator("#list tbody tr .cell-task .call").all_inner_texts()


def some_of_everything(scene: Scene) -> str:
    """Tasks in every state, workers alive, dead and gone; returns the id of a failed one."""
    scene.beat("w1", [0, 1])
    scene.beat("a-worker-of-an-earlier-deploy-7f9c6d5b4-x2x8k-4711", [2])
    scene.leave("a-worker-of-an-earlier-deploy-7f9c6d5b4-x2x8k-4711")
    scene.beat("w2", [], lease_ms=1)
    handles = [scene.add.submit(number, 1) for number in range(6)]
    scene.run(handles[0].task_id, "w1", result="1")
    scene.run(handles[1].task_id, "w1", error_log="Traceback (most recent call last):\nValueError: no")
    scene.claim(handles[2].task_id, "w1")
    scene.greet.submit("Ada", times=3)
    scene.raw(b"no task")
    for value in (b'{"task_id":"x","task_type":"add","task_args":["' + b"x" * 300 + b'"]}', b"\xff" * 500):
        headers = {"yadtq-reason": b"a-word-without-any-space" * 20, "yadtq-task": b"x"}
        scene.broker.append(Message("tasks.dlq", value, None, 0, headers))
    return handles[1].task_id


def test_a_task_that_the_form_submits_appears_by_itself(watched: Watched, scene: Scene) -> None:
    page = watched.open("/")
    expect(page.locator(".empty")).to_contain_text("No tasks yet")
    page.evaluate("window.sameDocument = true")
    page.get_by_label("a int").fill("20")
    page.get_by_label("b int").fill("22")
    page.get_by_role("button", name="Submit add").click()
    expect(page.locator("#list tbody tr")).to_contain_text("add(20, 22)")
    expect(page.locator("#answer")).to_contain_text("Submitted")
    expect(page.locator("#total-queued .total-number")).to_have_text("1")
    scene.add.submit(1, 1)
    expect(page.locator("#list tbody tr")).to_have_count(2)
    assert page.evaluate("window.sameDocument") is True


def test_a_status_changes_on_the_page_while_one_looks(watched: Watched, scene: Scene) -> None:
    scene.beat("w1")
    task_id = scene.add.submit(1, 2).task_id
    page = watched.open("/")
    chip = page.locator(f"[id='row-{task_id}'] .chip")
    expect(chip).to_have_text("Queued")
    scene.claim(task_id, "w1")
    expect(chip).to_have_text("Processing")
    expect(page.locator("#total-processing .total-number")).to_have_text("1")
    scene.finish(task_id, "w1", result="3")
    expect(chip).to_have_text("Success")
    expect(page.locator(f"[id='row-{task_id}'] .cell-outcome")).to_have_text("3")
    expect(page.locator("#total-success .total-number")).to_have_text("1")
    expect(page.locator("#total-processing .total-number")).to_have_text("0")


def test_one_tasks_page_follows_it_to_its_end(watched: Watched, scene: Scene) -> None:
    scene.beat("w1")
    task_id = scene.add.submit(1, 2).task_id
    page = watched.open(f"/tasks/{task_id}")
    expect(page.locator(".chip")).to_have_text("Queued")
    expect(page.locator("#task")).to_contain_text("waiting for a worker")
    scene.run(task_id, "w1", error_log="Traceback\nValueError: broken")
    expect(page.locator(".chip")).to_have_text("Failed")
    expect(page.locator("pre.bad")).to_contain_text("ValueError: broken")


def test_a_worker_goes_dead_on_the_page_while_one_looks(watched: Watched, scene: Scene) -> None:
    scene.beat("w1", [0, 3])
    scene.beat("stand-by", [])
    page = watched.open("/workers")
    card = page.locator("#worker-w1")
    expect(card.locator(".chip")).to_have_text("Alive")
    expect(card.locator(".tag")).to_have_text(["0", "3"])
    scene.clock.ahead_ms = 11_000
    scene.beat("stand-by", [0, 3])
    expect(card.locator(".chip")).to_have_text("Dead")
    expect(page.locator("#worker-stand-by .chip")).to_have_text("Alive")
    expect(page.locator(".lead")).to_contain_text("1 of 2 alive")


def test_a_worker_leaves_the_page_while_one_looks(watched: Watched, scene: Scene) -> None:
    scene.beat("w1", [0], lease_ms=HOUR_MS)
    scene.beat("w2", [1], lease_ms=HOUR_MS)
    page = watched.open("/workers")
    card = page.locator("#worker-w2")
    expect(card.locator(".chip")).to_have_text("Alive")
    scene.leave("w2")
    expect(card.locator(".chip")).to_have_text("Left")
    expect(card.locator(".tag")).to_have_count(0)
    expect(page.locator(".lead")).to_contain_text("1 of 1 alive, 1 left")
    expect(page.locator(".lead")).to_contain_text("is shown for 5 minutes")
    scene.clock.ahead_ms = 301_000
    expect(card).to_have_count(0)
    expect(page.locator(".lead")).to_contain_text("1 of 1 alive.")


def test_queues_show_lag_while_one_looks(watched: Watched, scene: Scene) -> None:
    page = watched.open("/queues")
    expect(page.locator("#queue-tasks .lag")).to_have_text("caught up")
    for number in range(3):
        scene.add.submit(number, 1)
    expect(page.locator("#queue-tasks .lag")).to_have_text("3 to do")


def test_the_form_has_the_fields_of_the_chosen_task(watched: Watched) -> None:
    page = watched.open("/")
    page.locator("[data-choose] select").select_option("greet")
    expect(page.get_by_role("button", name="Submit greet")).to_be_visible()
    page.get_by_label("name str").fill('say "hello", Ada')
    page.get_by_label(re.compile("loud")).select_option("true")
    page.get_by_role("button", name="Submit greet").click()
    expect(page.locator("#list tbody tr")).to_contain_text('greet("say \\"hello\\", Ada", true)')
    page.locator("[data-choose] select").select_option("total")
    page.get_by_label(re.compile("numbers")).fill("[1, 2.5]")
    page.get_by_role("button", name="Submit total").click()
    expect(page.locator("#list tbody tr").first).to_contain_text("total([1, 2.5])")


def test_a_form_that_does_not_fit_says_why_and_keeps_what_was_typed(watched: Watched, scene: Scene) -> None:
    page = watched.open("/?form=total")
    field = page.get_by_label(re.compile("numbers"))
    field.fill("[1, ")
    page.get_by_role("button", name="Submit total").click()
    expect(page.locator(".flash-bad")).to_contain_text("numbers is not JSON")
    expect(field).to_have_value("[1, ")
    assert not any(scene.broker.logs["tasks"])
    # A refused form is a 422, which browsers write to the console; nothing else may stand there.
    assert [wrong for wrong in watched.wrongs if "422" not in wrong] == []
    watched.wrongs.clear()


def test_what_somebody_types_survives_an_update(watched: Watched, scene: Scene) -> None:
    page = watched.open("/")
    field = page.get_by_label("a int")
    field.fill("12")
    scene.add.submit(5, 5)
    expect(page.locator("#list tbody tr")).to_have_count(1)
    expect(field).to_have_value("12")
    expect(field).to_be_focused()


def test_focus_in_the_list_survives_an_update(watched: Watched, scene: Scene) -> None:
    task_id = scene.add.submit(5, 5).task_id
    page = watched.open("/")
    link = page.locator(f"[id='row-{task_id}'] a")
    link.focus()
    scene.add.submit(6, 6)
    expect(page.locator("#list tbody tr")).to_have_count(2)
    expect(link).to_be_focused()


def test_hostile_text_is_shown_as_text_and_runs_nowhere(watched: Watched, scene: Scene) -> None:
    scene.beat(ODD)
    first = scene.greet.using(task_id=ODD).submit(HOSTILE + "\x1b[2J\u202e")
    scene.run(first.task_id, ODD, error_log="Traceback\n" + HOSTILE + "\x07")
    second = scene.greet.submit(HOSTILE)
    scene.run(second.task_id, ODD, result=f'"{HOSTILE}"')
    page = watched.open("/")
    expect(page.locator("#list tbody tr")).to_have_count(2)
    assert sum("<script>alert('owned')" in text for text in rows(page)) == 2
    page.locator("#list tr:has(.chip-failed) a").click()
    expect(page.locator("pre.bad")).to_contain_text(HOSTILE + "\\x07")
    expect(page.locator("#task-id")).to_have_text(ODD)
    page = watched.open(f"/tasks/{second.task_id}")
    expect(page.locator("pre.good")).to_contain_text(HOSTILE)
    page = watched.open("/workers")
    expect(page.locator(".card h2")).to_have_text(ODD)
    scene.add.submit(1, 1)  # and through an update, which puts new parts in place
    page = watched.open("/")
    scene.greet.submit(HOSTILE)
    expect(page.locator("#list tbody tr")).to_have_count(4)
    assert page.locator("script:not([src]), img[src='x']").count() == 0


def test_filters_narrow_the_list_and_its_url_can_be_shared(watched: Watched, scene: Scene) -> None:
    some_of_everything(scene)
    page = watched.open("/")
    expect(page.locator("#list tbody tr")).to_have_count(7)
    page.get_by_label("Status", exact=True).select_option("FAILED")
    page.wait_for_url("**status=FAILED**")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page = watched.open("/?status=PROCESSING")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.locator("#filter-task_type").select_option("greet")
    page.wait_for_url("**task_type=greet**")
    expect(page.locator(".empty")).to_contain_text("Nothing matches")
    page.get_by_role("link", name="Show all tasks").click()
    expect(page.locator("#list tbody tr")).to_have_count(7)
    page.locator("#total-success").click()
    expect(page.locator("#list tbody tr")).to_have_count(1)


def test_older_tasks_are_a_page_further(watched: Watched, scene: Scene) -> None:
    for number in range(120):
        scene.add.submit(number, 0)
    page = watched.open("/")
    expect(page.locator("#total-queued .total-number")).to_have_text("120")
    seen = set(rows(page))
    for left in (50, 20):
        page.get_by_role("link", name="Older").click()
        expect(page.get_by_role("heading", name="Older tasks")).to_be_visible()
        expect(page.locator("#list tbody tr")).to_have_count(left)
        seen |= set(rows(page))
    assert len(seen) == 120
    page.get_by_role("link", name="Newest").click()
    expect(page.get_by_role("heading", name="Newest tasks")).to_be_visible()


def test_a_store_that_is_down_is_said_on_the_page_and_unsaid_when_it_is_back(watched: Watched, scene: Scene) -> None:
    scene.add.submit(1, 1)
    page = watched.open("/")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    scene.ledger.down = True
    expect(page.locator(".notice")).to_contain_text("Redis does not answer")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    expect(page.locator("#total-processing .total-number")).to_have_text("–")
    scene.ledger.down = False
    expect(page.locator(".notice")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier_that_axe_finds(browser: Browser, url: str, scene: Scene, scheme: str) -> None:
    failed = some_of_everything(scene)
    with browser.new_context(color_scheme="dark" if scheme == "dark" else "light") as context:
        page = context.new_page()
        paths = ("/", "/?status=FAILED&form=greet", "/?task_type=none", f"/tasks/{failed}", "/workers", "/queues")
        for path in (*paths, "/queues/tasks/dead", "/queues/tasks/dead?reason=none", "/queues/tasks/dead/0/0"):
            page.goto(url + path)
            page.wait_for_selector("#live:not([hidden])")
            found = Axe().run(page)
            assert found.violations_count == 0, f"{path} {scheme}: {found.generate_report()}"


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_page_scrolls_sideways_on_a_narrow_screen(browser: Browser, url: str, scene: Scene, width: int) -> None:
    failed = some_of_everything(scene)
    scene.greet.submit("a-word-without-any-space" * 40)
    with browser.new_context(viewport={"width": width, "height": 800}) as context:
        page = context.new_page()
        paths = ("/", f"/tasks/{failed}", "/workers", "/queues", "/tasks/nope")
        for path in (*paths, "/queues/tasks/dead", "/queues/tasks/dead/0/0"):
            page.goto(url + path)
            page.wait_for_selector("#live:not([hidden])")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_everything_can_be_read_and_submitted_without_scripts(browser: Browser, url: str, scene: Scene) -> None:
    failed = some_of_everything(scene)
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(url + "/")
        assert page.locator("#list tbody tr").count() == 7
        page.get_by_label("a int").fill("1")
        page.get_by_label("b int").fill("2")
        page.get_by_role("button", name="Submit add").click()
        expect(page.locator(".flash-good")).to_contain_text("Submitted")
        page.get_by_label("Status", exact=True).select_option("FAILED")
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#list tbody tr")).to_have_count(1)
        page.goto(f"{url}/tasks/{failed}")
        expect(page.locator("pre.bad")).to_contain_text("ValueError: no")


def test_the_page_can_be_used_by_keyboard_alone(watched: Watched) -> None:
    page = watched.open("/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_label("a int").focus()
    page.keyboard.type("7")
    page.keyboard.press("Tab")
    page.keyboard.type("8")
    page.keyboard.press("Enter")
    expect(page.locator("#list tbody tr")).to_contain_text("add(7, 8)")
