"""What people see in the console: the pages, in a real browser, of a real server."""

import asyncio
import json
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from browsing import Open, hear
from console_paths import PAGES
from console_world import CARD, OVER, RUNNING, prepare
from playwright.sync_api import Page, Route, expect
from programs import program

from salver.testing.process import ServerProcess


def row(page: Page, table: str, text: str) -> str:
    """The text of that table's row."""
    found = page.get_by_role("table", name=table).get_by_role("row").filter(has_text=text)
    return found.first.inner_text()


def test_models_with_their_versions_and_states(opened: Open) -> None:
    page = opened()
    assert page.title() == "Models · Salver"
    assert "champion → 1" in row(page, "Models of the registry", "fraud")
    rows = page.get_by_role("table", name="Versions that this server serves").get_by_role("row")
    expect(rows.filter(has_text="churn").filter(has_text="ready")).to_have_count(1)


def test_traffic_is_seen_as_it_comes(opened: Open, served: ServerProcess) -> None:
    page = opened("#/models/fraud")
    ask = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
    chart = page.get_by_role("img", name=re.compile("Requests per second by version"))
    for _ in range(2):
        for _ in range(5):
            assert served.post("/v2/models/fraud/infer", ask)[0] == 200
        hear(page, "/traffic")
    expect(chart).to_be_visible()
    page.get_by_text("Show as a table").first.click()
    expect(page.get_by_role("table", name="Requests per second by version").first).to_be_visible()


def test_a_model_with_its_aliases_versions_differences_and_history(opened: Open) -> None:
    page = opened("#/models/fraud")
    assert "1" in row(page, "Aliases", "champion")
    assert "auc: 0.93" in row(page, "Versions of fraud in the registry", "try 3")
    page.get_by_label("From version").select_option("1")
    page.get_by_label("to version").select_option("3")
    page.get_by_role("button", name="Compare").click()
    assert "0.93" in row(page, "From version 1 to 3", "auc")
    assert "ann" in row(page, "Changes", "version.pushed")


def test_a_version_with_its_signature_and_its_card_as_text(opened: Open) -> None:
    page = opened("#/models/fraud")
    page.get_by_role("table", name="Versions of fraud in the registry").get_by_role("link", name="2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fraud: version 2")
    assert "[any, 4]" in row(page, "Tensors", "input")
    assert "0.92" in row(page, "Numbers", "auc")
    assert "October" in row(page, "Origins", "data")
    expect(page.get_by_role("region", name="Card")).to_have_text(CARD)
    assert page.locator("main img, main a[href^='javascript']").count() == 0
    assert page.title() == "fraud: version 2 · Salver"
    expect(opened("#/models/fraud/versions/9").get_by_role("heading", level=1)).to_have_text(
        "That is not there"
    )


def test_a_release_under_way_with_its_evidence(opened: Open) -> None:
    page = opened("#/releases")
    page.get_by_role("link", name=RUNNING).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fraud: version 2 in place of 1")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    harm = page.get_by_role("img", name=re.compile("Evidence of harm over time"))
    expect(harm).to_have_attribute("aria-label", re.compile(r"errors \d+ %.*at 100 % it rolls back"))
    assert "canary" in row(page, "Units and requests by arm", "canary")
    assert "%" in row(page, "Metrics with their evidence", "errors")
    page.get_by_role("combobox", name="Metric", exact=True).select_option("slow")
    expect(page.get_by_role("img", name=re.compile("Ratio of slow"))).to_be_visible()


def test_a_release_begins_with_its_verdict_and_what_it_still_needs(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    verdict = page.get_by_role("region", name="Verdict")
    expect(page.locator("main section h2").first).to_have_text("Verdict")
    expect(verdict).to_contain_text(
        "No harm found: version 2 goes on at stage 1 of 3, with 10 % of the traffic."
    )
    expect(verdict).to_contain_text("Still needed")
    expect(verdict.get_by_role("listitem").first).to_contain_text("errors: evidence")
    expect(verdict).to_contain_text(re.compile("At the present rate|after some more looks"))


def forecast(page: Page, gates: list[float], state: str = "RUNNING", **more: object) -> str:
    """What ``verdict.js`` says of a release, if the evidence of a metric went so, a look a minute."""
    release = {"state": state, "stage": 0, "stages": 3, "canary": "8", "stable": "7", "weight": 0.1}
    metric = {"name": "errors", "log_e": 0, "threshold": 5, "missing": "evidence", "undecided": ""}
    verdict = {"at": 60 * len(gates), "decision": "continue", "metrics": [metric], "held_since": None}
    points = [{"at": 60 * n, "stage": 0, "lines": [{"log_gate": gate}]} for n, gate in enumerate(gates, 1)]
    policy = {"stages": [{"minutes": 30}], "hold_minutes": 60, "after_hold": "wait"}
    said = page.evaluate(
        """async ([release, last, policy, points]) => {
            const { verdict } = await import("./verdict.js");
            return verdict(release, last, policy, points, [{ name: "errors", gate: 10 }]);
        }""",
        [{"reason": "", "changed": 0, **release, **more}, {"verdict": verdict}, policy, points],
    )
    return f"{said['text']} {said['when']}"


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ([1, 2, 3], "is told after some more looks"),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 9.5], "ends in about 20 min"),  # its 30 minutes are not over
        ([0.05 * n for n in range(1, 41)], "ends in about 2.67 h"),  # 8 are missing, 0.05 a minute
        ([3, 3, 3, 3, 3, 3, 2], "errors does not reach its gate"),
    ],
)
def test_the_verdict_says_when_a_stage_is_to_end(opened: Open, gates: list[float], said: str) -> None:
    assert said in forecast(opened(), gates)


def test_the_verdict_of_each_state(opened: Open) -> None:
    page = opened()
    waits = forecast(page, [1], "PROPOSED", waits_for="version 8 is loading")
    assert waits.startswith("Version 8 has not met any traffic yet: version 8 is loading.")
    assert forecast(page, [1], "PROMOTED", watched_until=None).startswith("Version 8 was promoted.")
    back = forecast(page, [1], "ROLLED_BACK", reason="errors")
    assert back.startswith("Version 8 was rolled back: errors. All traffic goes to version 7.")
    assert forecast(page, [1], "PAUSED").startswith("Paused at stage 1 of 3.")


def test_the_sample_request_of_a_model_is_answered(opened: Open) -> None:
    command = opened("#/models/fraud").get_by_role("region", name="Sample request").inner_text()
    words = shlex.split(command)
    assert words[0] == "curl"
    done = subprocess.run([program("curl"), "-s", *words[1:]], capture_output=True, check=True)
    assert list(json.loads(done.stdout)) == ["y"]


def test_the_sample_request_of_a_large_input_is_made_by_python(opened: Open, served: ServerProcess) -> None:
    page = opened("#/models/fraud")
    inputs = [
        {"name": "it's", "datatype": "FP32", "shape": [-1, 3, 30]},
        {"name": "b", "datatype": "BOOL", "shape": [1]},
    ]
    shown = "async (inputs) => (await import('./sample.js')).sample('fraud', inputs).textContent"
    text = page.evaluate(shown, inputs)
    words = shlex.split(text[text.index("python3") : text.index(" | curl")])
    made = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert made == {"it's": [[[0] * 30] * 3], "b": [False]}


def test_a_release_shows_copies_means_and_what_is_worse_when_it_is_less(opened: Open) -> None:
    def told(route: Route) -> None:
        """The same release, had its policy and its last look been these."""
        detail = route.fetch().json()
        detail["look"]["verdict"]["copies"] = {
            "copies": {"asked": 300, "differed": 3, "failed": 0, "slower": 30},
            **{"log_alike": 1.0, "gate": 4.0, "log_unlike": 0.0, "threshold": 4.6},
            "missing": "copies that are alike",
        }
        detail["policy"]["metrics"][0] |= {"kind": "mean", "worse": "less", "rollback_margin": 0.2}
        detail["look"]["verdict"]["metrics"][0]["undecided"] = "too few units have brought anything"
        route.fulfill(json=detail)

    page = opened()
    page.route(f"**/api/v1/releases/{RUNNING}", told)
    page.evaluate(f"location.hash = '#/releases/{RUNNING}'")
    main = page.locator("main")
    expect(main).to_contain_text("No caller gets the new version's answers yet")
    expect(main).to_contain_text("Still needed: copies that are alike.")
    expect(main).to_contain_text("25 %")
    errors = row(page, "Metrics with their evidence", "errors")
    assert "too few units have brought anything" in errors
    assert re.search(r"–\s+–", errors)  # of a mean there are no events to tell
    expect(page.get_by_role("img", name=re.compile("Ratio of errors"))).to_contain_text("tolerated: × 0.8")


def test_a_release_that_was_rolled_back_says_why(opened: Open) -> None:
    page = opened(f"#/releases/{OVER}")
    verdict = page.get_by_role("region", name="Verdict")
    expect(verdict).to_contain_text("Version 2 was rolled back")
    expect(verdict).to_contain_text("errors: the canary has")
    expect(page.get_by_role("region", name="Status")).to_contain_text("Finished")
    for verb in ("Pause", "Promote", "Abort"):
        expect(page.get_by_role("button", name=verb, exact=True)).to_have_count(0)


def test_what_a_policy_would_see(opened: Open) -> None:
    page = opened("#/plan?model=fraud")
    page.get_by_label("Requests per second").fill("100")
    page.get_by_role("button", name="Forecast").click()
    assert "min" in row(page, "Time until a worse version is rolled back", "errors")
    assert "1 %" in row(page, "Stages for a version that is no worse", "1")
    page.get_by_label("Weight of stage 1, %").fill("90")
    page.get_by_role("button", name="Forecast").click()
    expect(page.get_by_role("alert")).to_contain_text("weights")


def test_what_was_planned_is_started(opened: Open) -> None:
    page = opened("#/plan")
    page.get_by_role("combobox", name="Model", exact=True).select_option("ranker")
    expect(page.get_by_role("heading", level=1)).to_have_text("Plan a release of ranker")
    page.get_by_label("Minutes at least").first.fill("7")
    page.get_by_role("button", name="Forecast").click()
    page.get_by_role("button", name="Start this release").click()
    dialog = page.get_by_role("dialog", name="Start a release of ranker?")
    dialog.get_by_role("combobox", name="New version").select_option("2")
    dialog.get_by_label("Why?").fill("calibrated anew")
    dialog.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("ranker: version 2 in place of 1")
    expect(page.locator("main")).to_contain_text("calibrated anew")
    page.get_by_text("Stages and metrics").click()
    expect(page.get_by_role("table", name="Stages", exact=True)).to_contain_text("7 min")


def test_webhooks_are_made_tried_again_and_removed(opened: Open, served: ServerProcess) -> None:
    page = opened("#/webhooks")
    page.get_by_role("button", name="New webhook").click()
    dialog = page.get_by_role("dialog", name="A new webhook")
    dialog.get_by_label("URL").fill("http://127.0.0.1:9/sesame")
    dialog.get_by_label("Events").select_option(["tag.set", "release.rolled_back"])
    dialog.get_by_label("Why?").fill("the pager")
    dialog.get_by_role("button", name="Add").click()
    secret = page.get_by_role("dialog", name="Its secret")
    expect(secret.get_by_role("textbox")).to_have_value(re.compile("^whsec_"))
    secret.get_by_role("button", name="I have it").click()
    receiver = page.get_by_role("table", name="Receivers").get_by_role("row").filter(has_text="127.0.0.1")
    expect(receiver).to_contain_text("http://127.0.0.1:9/…")
    expect(receiver).to_contain_text("release.rolled_back, tag.set")
    tag = f"{served.url}/api/v1/models/ranker/versions/1/tags/seen"
    assert page.request.put(tag, data={"value": "yes"}).ok
    told = page.get_by_role("table", name="Deliveries").get_by_role("row").filter(has_text="tag.set")
    expect(told).to_contain_text("failing")
    expect(told).to_contain_text("next try")
    with page.expect_response(lambda reply: reply.url.endswith("/again")) as again:
        told.get_by_role("button", name="Tell tag.set again").click()
    assert again.value.json()["attempts"] == 0
    expect(page.locator("#news")).to_have_text("tag.set is sent again.")
    page.get_by_role("navigation", name="Deliveries by state").get_by_role("link", name="given up").click()
    expect(page.locator("main")).to_contain_text("There are none of these.")
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_label("Why?").fill("moved away")
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("main")).to_contain_text("Nobody is told yet.")


def test_a_policy_is_checked_before_it_is_saved(opened: Open) -> None:
    page = opened("#/models/churn/policy")
    editor = page.get_by_label("JSON")
    expect(editor).to_have_value(re.compile('"stages"'))
    save = page.get_by_role("button", name="Save it")
    expect(save).to_be_disabled()
    for text, words in (
        ("{", "That is no JSON"),
        ('{"alpha": 2}', "alpha: alpha is 2.0"),
        (
            '{"metrics": [{"name": "e", "kind": "nonsense", "severity": "soft"}]}',
            "body.policy.metrics[0].kind",
        ),
    ):
        editor.fill(text)
        page.get_by_role("button", name="Check it").click()
        expect(page.get_by_role("alert")).to_contain_text(words)
        expect(editor).to_have_attribute("aria-invalid", "true")
        expect(save).to_be_disabled()
    editor.fill('{"alpha": 0.02, "stages": [{"weight": 0.1, "minutes": 5}, {"weight": 1, "minutes": 0}]}')
    page.get_by_role("button", name="Check it").click()
    assert "10 %" in row(page, "Stages for a version that is no worse", "1")
    editor.press("End")
    editor.press("Space")
    expect(page.locator("main")).to_contain_text("is of the text that was checked last")
    expect(save).to_be_disabled()
    page.get_by_role("button", name="Check it").click()
    save.click()
    dialog = page.get_by_role("dialog", name="Judge releases of churn by this?")
    dialog.get_by_label("Why?").fill("careful")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text("an alias moves by a release")
    page.get_by_role("link", name="Policy").click()
    expect(page.get_by_label("JSON")).to_have_value(re.compile('"alpha": 0.02'))
    page.get_by_role("button", name="Judge no more").click()
    page.get_by_role("dialog").get_by_label("Why?").fill("as it was")
    page.get_by_role("dialog").get_by_role("button", name="Move at once").click()
    expect(page.locator("main")).to_contain_text("an alias moves at once")


def test_who_saves_what_another_has_changed_meanwhile_is_told(opened: Open, served: ServerProcess) -> None:
    page = opened("#/models/ranker/policy")
    expect(page.get_by_label("JSON")).to_have_value(re.compile('"stages"'))
    page.get_by_role("button", name="Check it").click()
    changed = page.request.put(
        f"{served.url}/api/v1/models/ranker/policy", data={"policy": "immediate", "reason": "somebody else"}
    )
    default = page.request.put(f"{served.url}/api/v1/models/ranker/default", data={"alias": "champion"})
    assert changed.ok and default.ok
    hear(page)
    page.get_by_role("button", name="Save it").click()
    page.get_by_role("dialog").get_by_label("Why?").fill("mine")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("has changed since it was read")


def test_an_alias_is_protected_by_a_role_that_somebody_has(opened: Open) -> None:
    page = opened("#/models/fraud")
    page.get_by_role("button", name="Protect champion").click()
    dialog = page.get_by_role("dialog", name="Who may move champion?")
    dialog.get_by_label("Roles").fill("release, on-call")
    dialog.get_by_label("Why?").fill("after last week")
    dialog.get_by_role("button", name="Keep").click()
    expect(dialog.get_by_role("alert")).to_contain_text("no token has the role release or on-call")


def test_a_chart_shows_the_whole_of_a_release_and_goes_on(opened: Open) -> None:
    """From the log, and then what came since."""
    page = opened()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/evidence" in request.url else None)
    page.evaluate(f"location.hash = '#/releases/{OVER}'")
    hear(page, "/evidence")
    hear(page, "/evidence")
    first, second = (re.search(r"after=(-?\d+)", url) for url in asked[:2])
    assert first and second and first[1] == "-1" and int(second[1]) > 0


def test_the_audit_and_its_filters(opened: Open) -> None:
    page = opened("#/audit")
    page.get_by_role("combobox", name="Model", exact=True).select_option("churn")
    page.get_by_role("combobox", name="Change", exact=True).select_option("alias.moved")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("table", name="Changes").get_by_role("row")).to_have_count(2)
    assert page.url.endswith("#/audit?model=churn&action=alias.moved")


def test_what_is_not_there(opened: Open) -> None:
    expect(opened("#/nowhere").get_by_role("heading", level=1)).to_have_text("There is no such page")
    expect(opened("#/models/none").get_by_text("There is no such model.")).to_be_visible()
    for place in ("#/models/%", "#/releases/%E0%A4%A", "#/models//policy"):
        expect(opened(place).get_by_role("heading", level=1)).to_have_text("There is no such page")


def test_what_others_wrote_is_text_and_nothing_else(opened: Open, served: ServerProcess) -> None:
    """In reasons, tags and names: a script in them is shown."""
    page = opened("#/models/ranker")
    script = "<img src=x onerror=document.title='taken'><b>"
    put = page.request.put
    assert put(f"{served.url}/api/v1/models/ranker/versions/2/tags/note", data={"value": script}).ok
    move = {"version": 3, "reason": script}
    named = {"x-salver-actor": "<script>document.title='taken'</script>"}
    assert put(f"{served.url}/api/v1/models/ranker/aliases/x", data=move, headers=named).ok
    for path in ("#/models/ranker", "#/audit", "#/audit?actor=a%26b%25<b>"):
        page.goto(f"{served.url}/console/{path}")
        hear(page)
        page.locator("main h1").wait_for()
        assert page.locator("main img, main script, main b > b").count() == 0
        assert "taken" not in page.title()
    expect(page.get_by_label("By")).to_have_value("a&b%<b>")
    page.goto(f"{served.url}/console/#/models/ranker")
    expect(page.locator("main")).to_contain_text(script)


def test_a_release_is_paused_and_goes_on(opened: Open) -> None:
    page = opened(f"#/releases/{RUNNING}")
    page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog", name="Pause this release?")
    expect(dialog.get_by_label("Why?")).to_be_focused()
    dialog.get_by_role("button", name="Pause").click()  # without a reason the browser refuses
    expect(dialog).to_be_visible()
    dialog.get_by_label("Why?").fill("the weekend")
    dialog.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("region", name="Status")).to_contain_text("paused")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("dialog").get_by_label("Why?").fill("monday")
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.get_by_role("region", name="Status")).not_to_contain_text("paused")


def test_an_alias_moves(opened: Open) -> None:
    page = opened("#/models/churn")
    page.get_by_role("button", name="New alias").click()
    dialog = page.get_by_role("dialog", name="A new alias")
    dialog.get_by_label("Alias").fill("shadow")
    dialog.get_by_label("Version").select_option("3")
    dialog.get_by_label("Why?").fill("to look at it first")
    dialog.get_by_role("button", name="Set").click()
    expect(page.get_by_role("table", name="Aliases")).to_contain_text("shadow")
    page.get_by_role("button", name="Move shadow").click()
    page.get_by_role("dialog").get_by_label("Version").select_option("2")
    page.get_by_role("dialog").get_by_label("Why?").fill("older")
    page.get_by_role("dialog").get_by_role("button", name="Move").click()
    expect(page.get_by_role("table", name="Changes").get_by_role("row").nth(1)).to_contain_text("older")


def test_a_change_needs_the_token_where_there_is_one(tmp_path: Path, opened: Open) -> None:
    with ThreadPoolExecutor(1) as beside:  # in this thread the browser's driver has a loop of its own
        beside.submit(asyncio.run, prepare(tmp_path / "registry")).result()
    (tmp_path / "token").write_text("an-example-token-of-a-test")
    options = ["--registry", str(tmp_path / "registry"), "--api-token-file", str(tmp_path / "token")]
    with ServerProcess([], tmp_path / "log", options) as server:
        page = opened(f"#/releases/{RUNNING}", url=server.wait_ready().url)
        page.get_by_role("button", name="Pause").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Why?").fill("the weekend")
        dialog.get_by_role("button", name="Pause").click()
        expect(dialog.get_by_role("alert")).to_contain_text("a change needs a token")
        expect(dialog.get_by_label("Token")).to_be_focused()
        dialog.get_by_label("Token").fill("not-the-token-of-this-test")
        dialog.get_by_role("button", name="Pause").click()
        expect(dialog.get_by_role("alert")).to_contain_text("Ask for a new one")
        expect(dialog.get_by_label("Why?")).to_have_value("the weekend")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Who am I").click()
        page.get_by_role("dialog").get_by_label("Name").fill("Zoë 李")
        page.get_by_role("dialog").get_by_label("Token").fill("an-example-token-of-a-test")
        page.get_by_role("dialog").get_by_role("button", name="Keep").click()
        expect(page.get_by_role("button", name="Zoë 李")).to_be_visible()
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("dialog").get_by_label("Why?").fill("the weekend")
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        verdict = page.get_by_role("region", name="Verdict")
        expect(verdict).to_contain_text("requested by api:Zoë 李: the weekend")


def test_no_request_leaves_the_origin_and_every_page_has_a_name(opened: Open, served: ServerProcess) -> None:
    asked: set[str] = set()
    titles: set[str] = set()
    page = opened()
    page.on("request", lambda request: asked.add(request.url))
    page.reload()
    for path in PAGES.values():
        page.goto(f"{served.url}/console/{path}")
        hear(page)
        page.locator("main h1").wait_for()
        titles.add(page.title())
    assert len(asked) > 20
    assert {re.sub(r"(?<=[^/:])/.*", "", url) for url in asked} == {served.url}
    assert len(titles) == len(PAGES)


def test_the_theme_follows_the_system_until_the_button_says_otherwise(opened: Open) -> None:
    def ground(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page = opened(theme="dark")
    dark = ground(page)
    button = page.get_by_role("button", name="Dark")
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    light = ground(page)
    assert light != dark
    page.reload()
    page.locator("main h1").wait_for()
    assert ground(page) == light


def test_without_a_registry_it_says_what_is_missing(tmp_path: Path, opened: Open) -> None:
    from zoo import write_mlp

    write_mlp(tmp_path / "models" / "mlp", 1)
    with ServerProcess([tmp_path / "models"], tmp_path / "log") as server:
        server.wait_ready()
        for path in ("#/releases", "#/plan", "#/audit", "#/releases/none"):
            expect(opened(path, url=server.url).locator("main")).to_contain_text("--registry")
        expect(opened("#/models/mlp", url=server.url).get_by_role("heading", name="Aliases")).to_have_count(0)


def test_a_pipeline_is_drawn_with_what_its_steps_took(tmp_path: Path, opened: Open) -> None:
    from zoo import write_mlp

    folder = tmp_path / "models" / "insects"
    write_mlp(folder / "network", 1)
    (folder / "pipeline.toml").write_text(
        '[steps.network]\nmodel = "network/1/model.onnx"\n[steps.chances]\nuse = "softmax"\n'
        '[steps.best]\nuse = "arg-max"\n[statistics]\nsample = 1\n'
    )
    with ServerProcess([tmp_path / "models"], tmp_path / "log") as server:
        server.wait_ready()
        ask = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 16], "data": [0.5] * 32}]}
        assert server.post("/v2/models/insects/infer", ask)[0] == 200
        page = opened("#/models/insects", url=server.url)
        picture = page.get_by_role("img", name="Steps of insects, from the top down")
        expect(picture).to_contain_text("network")
        expect(picture.locator(".step")).to_have_count(4)  # the input, and three steps
        expect(picture.locator(".edge")).to_have_count(3)
        assert "softmax" in row(page, "Steps of insects", "chances")
        expect(page.get_by_role("table", name="Values at the edges of insects")).to_contain_text("best.score")


def test_instances_and_rules_are_shown_with_their_states_and_what_they_are_asked(
    tmp_path: Path, opened: Open, served: ServerProcess
) -> None:
    """One answers, and nobody listens at the other's port."""
    folder = tmp_path / "models" / "fraud"
    folder.mkdir(parents=True)
    (folder / "instances.toml").write_text(f'instances = ["{served.url}", "http://127.0.0.1:9"]\n')
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rules]]\nname = "all"\nwhen.model = "fraud"\nset.timeout = "30s"\n')
    ask = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--rules-file", str(rules)]) as front:
        front.wait_ready()
        page = opened("#/routing", url=front.url)
        picture = page.get_by_role("img", name="This server and the instances of fraud")
        expect(picture.locator(".instance.good")).to_have_count(1)
        expect(picture.locator(".instance.bad")).to_contain_text("http://127.0.0.1:9 down")
        assert front.post("/v2/models/fraud/infer", ask)[0] == 200
        hear(page, "/instances")
        rows = page.get_by_role("table", name="Instances of fraud").get_by_role("row")
        expect(rows.filter(has_text=served.url).get_by_role("cell").nth(4)).to_have_text("1")
        rule = page.get_by_role("table", name="Rules on requests").get_by_role("row").filter(has_text="all")
        expect(rule.get_by_role("cell").nth(1)).to_have_text("timeout 30s")
        expect(rule.get_by_role("cell").nth(3)).to_have_text("1")
