"""Keys in the console, made and changed in a real browser, of a server that then needs them."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browsing import PATIENCE_MS, hear, is_wrong
from playwright.sync_api import Browser, Locator, Page, expect
from zoo import write_mlp

from salver.features.access.key_format import is_key
from salver.testing.process import ServerProcess

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A registry without keys, and a model."""
    folder: Path = tmp_path_factory.mktemp("keys")
    write_mlp(folder / "models" / "mlp", 1)
    options = ["--registry", str(folder / "registry")]
    with ServerProcess([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready()


def opened(browser: Browser, url: str, key: str = "") -> Page:
    """The page, for a person who gives the key where the browser asks for a password."""
    credentials = {"username": "ann", "password": key} if key else None
    page = browser.new_page(http_credentials=credentials)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{url}/console/#/keys")
    page.locator("h1").wait_for()
    return page


def shown_once(page: Page) -> str:
    dialog = page.get_by_role("dialog", name=re.compile("^The key of"))
    key = dialog.get_by_role("textbox").input_value()
    dialog.get_by_role("button", name="I have it").click()
    expect(dialog).to_have_count(0)
    assert is_key(key)
    return key


def test_keys_are_made_limited_rotated_and_revoked(browser: Browser, served: ServerProcess) -> None:
    def infer(key: str) -> int:
        headers = {"x-api-key": key}
        return httpx.post(f"{served.url}/v2/models/mlp/infer", json=ROW, headers=headers).status_code

    page = opened(browser, served.url)
    expect(page.locator("main")).to_contain_text("There are no keys yet")
    page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog", name="A new key")
    expect(dialog).to_contain_text("This is the first key")
    expect(dialog.get_by_label("Scopes")).to_have_value("*")
    dialog.get_by_label("Name").fill("ops")
    dialog.get_by_label("Why?").fill("we begin")
    dialog.get_by_role("button", name="Make").click()
    ops = shown_once(page)
    expect(page.get_by_role("table", name="Keys")).to_contain_text("ops")  # it goes on with its key
    page.context.close()
    assert infer("") == 401 and infer(ops) == 200

    wrong: list[str] = []
    page = opened(browser, served.url, ops)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if is_wrong(said) else None)
    rows = page.get_by_role("table", name="Keys").get_by_role("row")
    expect(rows.filter(has_text="ops")).to_contain_text("valid")
    page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog", name="A new key")
    dialog.get_by_label("Name").fill("<b>web</b>")
    dialog.get_by_label("Scopes").fill("infer:m*, drive")
    dialog.get_by_label("Limit of requests").fill("1/h+1")
    dialog.get_by_label("Tenant").fill("acme")
    dialog.get_by_label("Why?").fill("the shop")
    dialog.get_by_role("button", name="Make").click()
    expect(dialog.get_by_role("alert")).to_contain_text("'drive' is no scope")
    dialog.get_by_label("Scopes").fill("infer:m*, read")
    dialog.get_by_role("button", name="Make").click()
    web = shown_once(page)
    row = rows.filter(has_text="<b>web</b>")
    for text in ("infer:m*, read", "1/h+1 requests", "acme", "by key:ops", f"{web[:8]}…{web[-3:]}"):
        expect(row).to_contain_text(text)
    expect(page.locator("main")).not_to_contain_text(web)
    assert [infer(web), infer(web)] == [200, 429]

    row.get_by_role("button", name="Limits").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Limit of requests")).to_have_value("1/h+1")
    dialog.get_by_label("Limit of requests").fill("")
    dialog.get_by_label("At once").fill("7")
    dialog.get_by_label("Quotas").fill("1000/day, 1e6 tokens/month")
    dialog.get_by_label("Why?").fill("it is patient")
    dialog.get_by_role("button", name="Keep").click()
    expect(row).to_contain_text("7 at once, 1000/day, 1e6 tokens/month")
    assert infer(web) == 200

    edit(page, row)
    assert infer(web) == 200

    row.get_by_role("button", name="Rotate").click()
    dialog.get_by_label("The old one").fill("1h")
    dialog.get_by_label("Why?").fill("it leaked")
    dialog.get_by_role("button", name="Rotate").click()
    new = shown_once(page)
    assert new != web and [infer(web), infer(new)] == [200, 200]

    row.get_by_role("button", name="Revoke").click()
    dialog.get_by_label("Why?").fill("moved away")
    dialog.get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    expect(row.get_by_role("button")).to_have_count(0)
    assert [infer(web), infer(new)] == [401, 401]
    hear(page, "/keys")
    hold(page)
    assert_usable(page)
    page.goto(f"{served.url}/console/#/audit")
    changes = page.get_by_role("table", name="Changes").get_by_role("row")
    expect(changes.filter(has_text="key.revoked")).to_contain_text("moved away")
    assert wrong == []
    page.context.close()


def hold(page: Page) -> None:
    page.get_by_role("button", name="Limit a model").click()
    dialog = page.get_by_role("dialog", name="Limits of a model")
    dialog.get_by_label("Name").fill("llm-*")
    dialog.get_by_label("At once").fill("16")
    dialog.get_by_label("Why?").fill("it is slow")
    dialog.get_by_role("button", name="Keep").click()
    row = page.get_by_role("table", name="Limits", exact=True).get_by_role("row").filter(has_text="llm-*")
    expect(row).to_contain_text("16 at once")
    row.get_by_role("button").click()
    expect(dialog.get_by_label("Name")).to_have_value("llm-*")
    dialog.get_by_label("At once").fill("")
    dialog.get_by_label("Why?").fill("not any more")
    dialog.get_by_role("button", name="Keep").click()
    expect(page.locator("main")).to_contain_text("None of them has limits")


def edit(page: Page, row: Locator) -> None:
    dialog = page.get_by_role("dialog")
    row.get_by_role("button", name="Edit").click()
    expect(dialog.get_by_label("Scopes")).to_have_value("infer:m* read")
    dialog.get_by_label("Scopes").fill("infer:ml*")
    dialog.get_by_label("Owner").fill("bob")
    dialog.get_by_label("Why?").fill("it reads nothing")
    dialog.get_by_role("button", name="Keep").click()
    expect(row).to_contain_text("infer:ml*")
    expect(row).to_contain_text("bob")
    expect(row).not_to_contain_text("read")


def assert_usable(page: Page) -> None:
    """No table is wider than the page, and nothing is cut off on a phone."""
    for width in (1280, 320):
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.locator(".scroll").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth)")
        assert not wide, width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
