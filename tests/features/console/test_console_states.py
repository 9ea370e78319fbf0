"""What the console shows when something is not as usual, and what becomes of the focus meanwhile."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from browsing import Open, hear
from console_world import OVER, RUNNING
from playwright.sync_api import Browser, Locator, Page, Route, expect

from salver.testing.process import ServerProcess

Change = Callable[[Any], None]
DETAIL = f"**/api/v1/releases/{RUNNING}"


def told_otherwise(page: Page, where: str, change: Change) -> None:
    """The server's own answers, but for a change."""

    def answer(route: Route) -> None:
        document = route.fetch().json()
        change(document)
        route.fulfill(json=document)

    page.route(where, answer)


def go(page: Page, place: str) -> None:
    page.evaluate("place => { location.hash = place; }", place)


def test_who_counts_a_release_is_told_and_who_has_fallen_silent(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    standing = page.get_by_role("region", name="Status")
    expect(standing).to_contain_text(re.compile("Counted by ?1 server"))
    silent = {"server": "b", "silent_seconds": 40.2, "is_heard": False}
    told_otherwise(page, DETAIL, lambda detail: detail["servers"].append(silent))
    expect(standing).to_contain_text("1 silent for 40 s")
    page.unroute(DETAIL)
    told_otherwise(page, DETAIL, lambda detail: detail.update(servers=[silent]))
    expect(standing).to_contain_text("No server counts it now")
    page.goto(page.url.replace(RUNNING, OVER))
    expect(standing).to_contain_text("rolled back")
    expect(standing).not_to_contain_text("ounted by")


def test_a_promoted_release_tells_until_when_it_is_compared(opened: Open) -> None:
    page = opened()
    over = {"state": "PROMOTED", "stage": 3, "weight": 1.0, "ended": 1.8e9, "watched_until": 1.9e9}
    told_otherwise(page, DETAIL, lambda detail: detail["release"].update(over))
    go(page, f"#/releases/{RUNNING}")
    standing = page.get_by_role("region", name="Status")
    expect(standing).to_contain_text("Compared until")
    expect(standing.locator("[aria-current]")).to_have_count(0)


def test_a_release_that_is_over_is_seldom_asked_for_and_leads_to_the_next_one(opened: Open) -> None:
    page = opened()
    page.evaluate("""() => {
        const wait = window.setTimeout;
        window.pauses = [];
        window.setTimeout = (then, pause) => { window.pauses.push(pause); return wait(then, pause); };
        window.look = () => { window.pauses = []; document.dispatchEvent(new Event("visibilitychange")); };
    }""")

    def pauses(milliseconds: int) -> None:
        """Until it is asked for again after so many, when it has been asked for once more."""
        page.evaluate("look()")
        page.wait_for_function("pause => window.pauses.includes(pause)", arg=milliseconds)

    go(page, f"#/releases/{RUNNING}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("in place of")
    pauses(3_000)
    go(page, f"#/releases/{OVER}")
    expect(page.get_by_role("region", name="Status")).to_contain_text("rolled back")
    pauses(30_000)
    expect(page.get_by_text("Another release of the model")).to_have_count(0)
    nobody = page.request.get(page.url.split("/console")[0] + f"/api/v1/releases/{RUNNING}").json()
    told_otherwise(page, "**/api/v1/releases?*", lambda found: found["items"].append(nobody["release"]))
    page.evaluate("look()")
    expect(page.get_by_text("Another release of the model")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="1 → 2").click()
    expect(page.get_by_role("region", name="Status")).to_contain_text("running")


def test_a_release_that_is_held_tells_until_when_and_what_comes_then(opened: Open) -> None:
    def held(detail: Any) -> None:
        detail["release"].update(state="HELD")
        detail["look"]["verdict"].update(held_since=1.8e9)
        detail["policy"].update(hold_minutes=60.0, after_hold="rollback")

    page = opened()
    told_otherwise(page, DETAIL, held)
    go(page, f"#/releases/{RUNNING}")
    standing = page.get_by_role("region", name="Status")
    expect(standing).to_contain_text(re.compile("Held until"))
    expect(standing.locator("time[datetime='2027-01-15T09:00:00.000Z']")).to_be_visible()
    verdict = page.get_by_role("region", name="Verdict")
    expect(verdict).to_contain_text(re.compile(r"Held at stage 1 of 3.*it is rolled back in [\d.]+ days\."))


def test_each_metric_of_a_usual_policy_has_a_line_of_its_own(opened: Open) -> None:
    """It has seven."""

    def many(evidence: Any) -> None:
        evidence["metrics"] = [evidence["metrics"][0] | {"name": f"m{number}"} for number in range(8)]
        for point in evidence["items"]:
            point["lines"] = point["lines"][:1] * 8

    page = opened()
    told_otherwise(page, "**/evidence?*", many)
    go(page, f"#/releases/{RUNNING}")
    lines = page.get_by_role("img", name=re.compile("Evidence of harm")).locator(".line")
    expect(lines).to_have_count(8)
    looks = lines.evaluate_all(
        "all => all.map(getComputedStyle).map(style => `${style.stroke} ${style.strokeDasharray}`)"
    )
    assert len(set(looks)) == 8 and not any(look.startswith("none") for look in looks)


def test_what_is_proven_of_the_size_of_an_effect_is_seen_however_large_it_is(opened: Open) -> None:
    page = opened()

    def large(evidence: Any) -> None:
        for point in evidence["items"]:
            point["lines"][0] |= {"low": 40.0, "high": None}

    told_otherwise(page, "**/evidence?*", large)
    go(page, f"#/releases/{RUNNING}")
    band = page.get_by_role("img", name=re.compile("Ratio of errors")).locator(".band")
    expect(band).to_have_count(1)
    assert band.bounding_box()["height"] > 30  # type: ignore[index]


def test_a_promotion_says_where_it_leads(opened: Open) -> None:
    for stage, words in ((0, "stage 2 of 3"), (2, "version 2 gets all of the traffic, and @champion moves")):
        page = opened()
        told_otherwise(page, DETAIL, lambda detail, stage=stage: detail["release"].update(stage=stage))
        go(page, f"#/releases/{RUNNING}")
        page.get_by_role("button", name="Promote").click()
        expect(page.get_by_role("dialog")).to_contain_text(words)


def test_who_promotes_what_has_gone_on_meanwhile_is_told(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill("seen enough")
    told_otherwise(page, DETAIL, lambda detail: detail["release"].update(stage=1))
    expect(page.get_by_role("region", name="Status")).to_contain_text("2 of 3")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.get_by_role("alert")).to_contain_text("gone on meanwhile")


def test_a_button_that_comes_leaves_the_focus_where_it_is(opened: Open) -> None:
    """Else who is about to abort would promote."""
    page = opened(f"#/releases/{RUNNING}")
    page.get_by_role("button", name="Abort").focus()
    told_otherwise(page, DETAIL, lambda detail: detail["release"].update(state="HELD"))
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("button", name="Abort")).to_be_focused()
    page.unroute(DETAIL)
    page.get_by_role("button", name="Resume").focus()
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_be_focused()  # what had it is gone


def test_who_does_not_wait_for_an_answer_hears_that_it_did_not_go(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    asked: list[Route] = []
    page.route("**/pause", lambda route: asked.append(route))
    page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill("lunch")
    with page.expect_request("**/pause"):
        dialog.get_by_role("button", name="Pause").click()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    asked[0].fulfill(status=409, json={"title": "Conflict", "status": 409, "detail": "it is over"})
    expect(dialog.get_by_role("alert")).to_contain_text("it is over")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_what_is_pointed_at_is_told_while_numbers_change(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    chart = page.get_by_role("img", name=re.compile("Evidence of harm"))
    chart.hover()
    for _ in range(2):
        hear(page, "/evidence")
    expect(page.locator("figure").filter(has=chart).locator("li").first).to_contain_text(" at ")
    page.get_by_role("heading", level=1).hover()
    expect(page.locator("figure").filter(has=chart).locator("li").first).not_to_contain_text(" at ")


def test_who_comes_to_what_is_not_there_hears_so(opened: Open) -> None:
    page = opened()
    go(page, "#/releases/none")
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text("That is not there")
    expect(title).to_be_focused()


def test_a_dialog_begins_with_its_first_field(opened: Open) -> None:
    page = opened("#/models/fraud")
    page.get_by_role("button", name="New alias").click()
    expect(page.get_by_role("dialog").get_by_label("Alias")).to_be_focused()


def test_a_release_under_way_is_listed_however_many_ended_since(opened: Open, served: ServerProcess) -> None:
    page = opened()
    started = page.request.post(
        f"{served.url}/api/v1/releases", data={"model": "churn", "version": "3", "reason": "one more"}
    ).json()
    assert page.request.post(
        f"{served.url}/api/v1/releases/{started['id']}/abort", data={"reason": "enough"}
    ).ok
    page.route(
        "**/api/v1/releases?limit=50*",
        lambda route: route.continue_(url=route.request.url.replace("=50", "=1")),
    )
    go(page, "#/releases")
    expect(page.get_by_role("table", name="Finished releases")).to_contain_text(started["id"])
    for link, id in (("Older", OVER), ("Newest", started["id"])):
        page.get_by_role("link", name=link).click()
        expect(page.get_by_role("table", name="Finished releases")).to_contain_text(id)
        expect(page.get_by_role("table", name="Releases in progress")).to_contain_text(RUNNING)


def test_a_model_has_its_page_however_many_there_are(opened: Open) -> None:
    page = opened()
    page.route("**/api/v1/models?limit=*", lambda route: route.fulfill(json={"items": [], "next": ""}))
    go(page, "#/models/fraud")
    expect(page.get_by_role("table", name="Aliases")).to_contain_text("champion")


def test_what_is_old_is_told_to_be_old(opened: Open) -> None:
    page = opened("#/releases")
    expect(page.get_by_role("table", name="Releases in progress")).to_be_visible()
    page.context.set_offline(True)
    notice = page.locator(".stale")
    expect(notice).to_contain_text("The server does not answer. What stands here is of")
    expect(notice).to_be_in_viewport()
    expect(page.locator("#link")).to_have_text("No answer")
    expect(page.get_by_role("table", name="Releases in progress")).to_be_visible()
    page.context.set_offline(False)
    expect(page.locator("#link")).to_have_text("Live")
    expect(notice).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_text("Releases")


def test_a_server_that_cannot_tell_says_why(opened: Open) -> None:
    problem = {"title": "Unavailable", "status": 503, "detail": "the ledger does not answer"}
    page = opened()
    page.route("**/api/v1/releases?*", lambda route: route.fulfill(status=503, json=problem))
    go(page, "#/releases")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no answer")
    expect(page.locator(".stale")).to_contain_text("the ledger does not answer. The next try is in")


def test_where_nothing_may_be_changed_it_says_why(opened: Open) -> None:
    page = opened()
    told_otherwise(page, "**/api/v1/server", lambda server: server.update(changes="refused"))
    go(page, f"#/releases/{RUNNING}")
    expect(page.get_by_role("button", name="Abort")).to_be_disabled()
    expect(page.locator("main")).to_contain_text("--api-token-file")


def test_what_is_not_known_yet_is_not_told_as_nothing(opened: Open) -> None:
    page = opened()
    page.route("**/api/v1/traffic", lambda route: route.fulfill(json={"at": 1.0, "items": []}))
    page.reload()
    about = page.get_by_text("models are loaded")
    expect(about).to_be_visible()
    expect(about).not_to_contain_text("asked")


def test_a_browser_that_keeps_nothing_shows_and_changes_as_others_do(opened: Open) -> None:
    """One that blocks cookies refuses to name its stores."""
    page = opened()
    for store in ("localStorage", "sessionStorage"):
        page.add_init_script(f"Object.defineProperty(window, '{store}', {{ get() {{ throw Error(); }} }})")
    sent: list[str | None] = []

    def pause(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        problem = {"title": "Unauthorized", "status": 401, "detail": "a change needs a token"}
        answer = {"is_done": False, "wish": 1, "release": {}}
        route.fulfill(json=answer) if sent[-1] else route.fulfill(status=401, json=problem)

    page.route("**/pause", pause)
    page.goto(f"{page.url.partition('#')[0]}#/releases/{RUNNING}")
    page.reload()
    page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why?").fill("lunch")
    dialog.get_by_role("button", name="Pause").click()
    dialog.get_by_label("Token").fill("secret")
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_have_count(0)
    assert sent == [None, "Bearer secret"]


def test_what_has_become_of_a_wish_is_seen_as_well_as_heard(opened: Open) -> None:
    page = opened("#/plan")
    page.get_by_role("button", name="Forecast").click()
    expect(page.get_by_text("The plan is below the form.")).to_be_in_viewport()


@pytest.mark.parametrize(("place", "hours"), [("de-DE", "21:45"), ("en-US", r"9:45\sPM")])
def test_numbers_are_written_as_the_words_around_them_and_hours_as_people_count(
    browser: Browser, served: ServerProcess, place: str, hours: str
) -> None:
    """The server's reasons have 2.7 where German numbers would have 2,7."""
    with browser.new_context(locale=place, timezone_id="Asia/Kolkata") as context:
        page = context.new_page()
        begun = {"created": 1_800_029_700.0}
        told_otherwise(page, DETAIL, lambda detail: detail["release"].update(begun))
        page.goto(f"{served.url}/console/#/releases/{RUNNING}")
        standing = page.get_by_role("region", name="Status")
        expect(standing).to_contain_text(re.compile(rf"Started ?Jan 15, 2027, {hours}"))
        page.get_by_text("Stages and metrics").click()
        expect(page.get_by_role("table", name="Metrics", exact=True)).to_contain_text("× 1.5")
        page.unroute_all(behavior="ignoreErrors")


def test_the_audit_of_a_release_leads_to_it(opened: Open) -> None:
    page = opened("#/audit?action=release.rolled_back")
    page.get_by_role("table", name="Changes").get_by_role("link", name=OVER).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("churn: version 2 in place of 1")


def test_the_button_of_the_theme_follows_the_system(opened: Open) -> None:
    button = (page := opened()).get_by_role("button", name="Dark")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.emulate_media(color_scheme="dark")
    expect(button).to_have_attribute("aria-pressed", "true")


@pytest.fixture
def valued(served: ServerProcess, opened: Open) -> Page:
    """``ranker`` is judged by what it earns."""
    metrics = [
        {"name": "errors", "kind": "errors", "severity": "severe", "negligible": 0.001},
        {"name": "revenue", "kind": "mean", "severity": "soft", "worse": "less", "cap": 9.0},
    ]
    policy = {"alpha": 0.02, "stages": [{"weight": 0.3, "minutes": 7}], "metrics": metrics}
    page = opened()
    put = page.request.put(
        f"{served.url}/api/v1/models/ranker/policy", data={"policy": policy, "reason": "money"}
    )
    assert put.ok, put.text()
    return page


def foreseen(page: Page) -> Locator:
    """Rows of what a policy would see, one a metric."""
    return page.get_by_role("table", name=re.compile("Time until a worse")).get_by_role("row")


def test_a_plan_begins_with_the_models_own_policy_and_foresees_its_means(valued: Page) -> None:
    go(valued, "#/plan?model=ranker")
    expect(valued.get_by_label("Weight of stage 1, %")).to_have_value("30")
    expect(valued.get_by_label("Weight of stage 2, %")).to_have_count(0)
    expect(valued.get_by_label("False rollbacks, %")).to_have_value("2")
    expect(valued.get_by_label("Too late, %")).to_have_count(0)
    valued.get_by_label("Requests per second").fill("100")
    valued.get_by_label("Spread of revenue, × its mean").fill("2.5")
    valued.get_by_role("button", name="Forecast").click()
    seen = foreseen(valued)
    expect(seen.filter(has_text="revenue")).to_contain_text("spread × 2.5")
    expect(seen.filter(has_text="revenue")).to_contain_text(re.compile(r"\d (min|h)"))


def test_a_policy_that_is_written_asks_for_what_its_metrics_need(valued: Page) -> None:
    go(valued, "#/models/ranker/policy")
    valued.get_by_label("Spread of revenue, × its mean").fill("2.5")
    editor = valued.get_by_label("JSON")
    editor.fill(editor.input_value().replace('"revenue"', '"sales"'))
    expect(valued.get_by_label("Spread of revenue, × its mean")).to_have_count(0)
    valued.get_by_label("Spread of sales, × its mean").fill("3.5")
    valued.get_by_label("Answers that fail, %").fill("4")
    valued.get_by_role("button", name="Check it").click()
    seen = foreseen(valued)
    expect(seen.filter(has_text="sales")).to_contain_text("spread × 3.5")
    expect(seen.filter(has_text="errors")).to_contain_text("4 %")
