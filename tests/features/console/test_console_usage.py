"""What keys have used, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browsing import PATIENCE_MS, is_wrong
from playwright.sync_api import Browser, expect
from waiting import until
from zoo import write_mlp

from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.testing.process import ServerProcess

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
KEY = new_key()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("usage")
    write_mlp(folder / "models" / "mlp", 1)
    file = folder / "keys.toml"
    file.write_text(written([KeyRecord("shop", "shop", hash_of(KEY), ("*",))]))
    with ServerProcess([folder / "models"], folder / "log", ["--keys-file", str(file)]) as server:
        until(lambda: "model ready" in server.output())
        yield server


def test_usage_by_key_and_model(browser: Browser, served: ServerProcess) -> None:
    for _ in range(3):
        answer = httpx.post(f"{served.url}/v2/models/mlp/infer", json=ROW, headers={"x-api-key": KEY})
        assert answer.status_code == 200, answer.text
    page = browser.new_page(http_credentials={"username": "ann", "password": KEY})
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if is_wrong(said) else None)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{served.url}/console/#/usage")
    row = page.get_by_role("row").filter(has_text="shop")
    expect(row.get_by_role("cell").nth(0)).to_have_text("mlp")
    expect(row.get_by_role("cell").nth(1)).to_have_text("3")
    page.get_by_role("link", name="A day").click()
    expect(page.get_by_role("link", name="A day")).to_have_attribute("aria-current", "true")
    expect(row.get_by_role("cell").nth(2)).to_have_text("3")
    assert wrong == []
    page.close()
