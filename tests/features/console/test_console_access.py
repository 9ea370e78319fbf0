"""Can everybody use the console? By keyboard alone, read aloud, on a narrow screen, in both themes."""

import itertools
from importlib.resources import files
from typing import Any

from browsing import Open, hear
from console_paths import EVERY
from console_world import OVER, RUNNING
from playwright.sync_api import Page, expect

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
#: Those of WCAG 2.2 up to level AA, and what is held for good practice.
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
#: Those of its rules that a theme can break: nothing else differs.
COLOURS = ["color-contrast", "link-in-text-block"]
#: Names of tables that are wider than their place.
WIDER = """[...document.querySelectorAll(".scroll")].filter(each => each.scrollWidth > each.clientWidth)
    .map(each => each.getAttribute("aria-label"))"""
SPACES = "all => all.map(each => getComputedStyle(each).whiteSpace)"


def violations(page: Page, rules: list[str] | None = None) -> list[str]:
    """What axe-core finds wrong on the page, each with where; by all rules unless some are named."""
    page.evaluate(AXE)  # not as a script of the page, which its policy forbids
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": TAGS}
    found: dict[str, Any] = page.evaluate("only => axe.run(document, {runOnly: only})", only)
    return [
        f"{each['impact']}: {each['id']} at {node['target']}: {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@EVERY
def test_axe_finds_nothing_wrong_and_nothing_is_cut_off(opened: Open, path: str) -> None:
    """In both themes, with everything unfolded, and at 320 pixels (WCAG 2.2, 1.4.10).

    No table is wider than the page: on a phone its rows are cards.
    """
    page = opened(path)
    hear(page)
    for details in page.locator("main details").all():
        details.evaluate("each => { each.open = true }")
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page, COLOURS) == []
    cells = page.locator("tbody td")
    for width, display in ((1280, "table-cell"), (390, "grid")):
        page.set_viewport_size({"width": width, "height": 900})
        assert not page.evaluate(WIDER)
        if cells.count():
            assert cells.first.evaluate("each => getComputedStyle(each).display") == display
    assert set(cells.evaluate_all(SPACES)) <= {"normal"}
    page.set_viewport_size({"width": 320, "height": 800})
    hear(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_axe_finds_nothing_wrong_where_something_is_wrong(opened: Open) -> None:
    """A server that is away, after something was said, at a port where nothing may be changed."""
    page = opened("#/plan")
    look = {"name": "salver", "version": "1", "changes": "refused", "has_registry": True}
    page.route("**/api/v1/server", lambda route: route.fulfill(json=look))
    hear(page)
    page.get_by_role("button", name="Forecast").click()
    expect(page.locator("#news")).to_have_text("The plan is below the form.")
    page.context.set_offline(True)
    expect(page.locator(".stale")).to_be_visible()
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page, COLOURS) == []
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_axe_finds_nothing_wrong_with_a_dialog(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_role("dialog", name="Abort this release?")).to_be_visible()
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page, COLOURS) == []


def test_axe_finds_nothing_wrong_with_rules_and_two_hundred_instances(opened: Open) -> None:
    states = ("available", "draining", "down", "ejected", "unfit")
    none = {"why": "", "weight": 1, "pending": 0, "failed": 0, "latency_seconds": 0, "returns_seconds": 0}
    each = [
        none | {"url": f"http://10.0.0.{number}:8000", "state": states[number % 5], "answered": number}
        for number in range(200)
    ]
    budget = {
        "policy": "measured",
        "max_requests": 8,
        "retries": 0,
        "hedges": 0,
        "retries_left": 100,
        "ejections": 0,
    }
    view = {"model": "sum", "version": "1", "instances": each, **budget}
    one = {"model": "sum", "version": "1", "state": "READY", "backend": "instances"}
    rule = {"name": "free", "when": {"rows": "> 2"}, "refuse": {"code": "rate_limited", "message": "no"}}
    rules = {"file": "rules.toml", "problem": "", "rules": [{"rule": rule, "matched": 7, "missing": []}]}
    page = opened()
    page.route("**/api/v1/rules", lambda route: route.fulfill(json=rules))
    page.route("**/api/v1/served", lambda route: route.fulfill(json={"items": [one], "next": ""}))
    page.route("**/api/v1/models/sum/instances", lambda route: route.fulfill(json=view))
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Routing").click()
    expect(page.get_by_role("img", name="the instances of sum").locator(".instance")).to_have_count(200)
    expect(page.get_by_role("table", name="Instances of sum")).to_contain_text("half-open")
    expect(page.get_by_role("table", name="Rules on requests")).to_contain_text("code rate_limited")
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page, COLOURS) == []
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def focused(page: Page) -> str:
    """The text of what has it."""
    return str(page.evaluate("(document.activeElement.innerText || '').trim()"))


def test_a_walk_by_keyboard_alone(opened: Open) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.reload()
    page.locator("main h1").wait_for()
    order = []
    for _ in range(12):
        page.keyboard.press("Tab")
        order.append(focused(page))
    assert order == [
        "Skip to the content",
        "Salver",
        "Models",
        "Routing",
        "Releases",
        "Plan",
        "Audit",
        "Webhooks",
        "Keys",
        "Usage",
        "Who am I",
        "Dark",
    ]
    page.get_by_role("navigation").get_by_role("link", name="Releases").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Releases")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    while focused(page) != RUNNING:
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("fraud")
    page.keyboard.press("Tab")  # the breadcrumb lies before the heading, its buttons behind
    assert focused(page) == "Pause"
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Why?")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Pause")).to_be_focused()


def test_focus_is_seen(opened: Open) -> None:
    page = opened()
    for _ in range(12):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px", focused(page)


def test_where_one_is_can_be_told_without_the_pages_own_colours(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    page.emulate_media(forced_colors="active")
    here, other = (
        page.get_by_role("navigation", name="Main").get_by_role("link", name=name)
        for name in ("Releases", "Audit")
    )
    expect(here).to_have_css("text-decoration-line", "underline")
    expect(other).to_have_css("text-decoration-line", "none")
    steps = page.get_by_role("list", name="Stages").get_by_role("listitem")
    expect(steps.first).to_have_css("border-top-width", "3px")
    expect(steps.last).to_have_css("border-top-width", "1px")


def test_focus_stays_while_numbers_change(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    page.get_by_text("Show as a table").first.focus()
    page.keyboard.press("Enter")
    for _ in range(2):
        hear(page, "/evidence")
    assert focused(page) == "Show as a table"
    expect(page.get_by_role("table", name="Evidence of harm over time").first).to_be_visible()


def test_landmarks_headings_and_tables_have_names(opened: Open) -> None:
    page = opened(f"#/releases/{OVER}")
    hear(page)
    for landmark in ("banner", "main"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    expect(page.get_by_role("navigation", name="Main")).to_have_count(1)
    assert page.locator("h1").count() == 1
    assert page.locator("table:not(:has(caption))").count() == 0
    tags = page.locator("h1, h2, h3").evaluate_all("all => all.map(element => element.tagName)")
    levels = [int(tag[1]) for tag in tags]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_what_changes_is_announced(opened: Open) -> None:
    page = opened("#/plan")
    expect(page.get_by_role("status").filter(has_text="Live")).to_have_count(1)
    page.get_by_role("button", name="Forecast").click()
    expect(page.locator("#news")).to_have_text("The plan is below the form.")
