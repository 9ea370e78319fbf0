"""The page about the API: a model is asked from its form, in a real browser."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import Open
from huggingface_directories import directory
from image_directories import FILES as PHOTOS
from image_directories import image_directory
from playwright.sync_api import expect

from salver.features.console import files as console
from salver.testing.process import ServerProcess

FILES = console.read_docs()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_model_is_asked_from_its_form(opened: Open, theme: str) -> None:
    page = opened("../docs/", theme=theme)
    form = page.locator('section[data-model="fraud"]')
    expect(form.get_by_text("POST /v2/models/fraud/infer")).to_be_visible()
    send = form.get_by_role("button", name="Send")
    send.click()
    expect(form.get_by_role("status")).to_contain_text("200 in")
    expect(form.get_by_label("Answer")).to_contain_text("[")
    form.get_by_label("Request").fill('{"nonsense": 1}')
    send.click()
    expect(form.get_by_role("status")).to_contain_text("400 in")
    expect(form.get_by_label("Answer")).to_contain_text("has no input 'nonsense'")
    form.get_by_label("Request").fill("")
    send.click()
    expect(form.get_by_role("status")).to_contain_text("200 in")
    expect(page.get_by_role("cell", name="/v2/repository/index", exact=True)).to_be_visible()


def test_it_fits_a_phone(opened: Open) -> None:
    page = opened("../docs/", width=390)
    page.locator("section[data-model]").first.wait_for()
    widths: Any = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    routes: Any = page.locator(".routes .scroll").evaluate("each => [each.scrollWidth, each.clientWidth]")
    assert routes[0] <= routes[1]


def test_a_server_that_goes_away_is_told(opened: Open) -> None:
    page = opened("../docs/")
    form = page.locator('section[data-model="fraud"]')
    form.wait_for()
    page.route("**/infer", lambda route: route.abort())
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_contain_text("The server does not answer")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with models that take raw inputs."""
    folder = tmp_path_factory.mktemp("raw")
    image_directory(folder, "image-vit")
    directory(folder, "qa")
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield running.wait_ready()


def test_a_file_is_picked_and_sent(opened: Open, raw: ServerProcess) -> None:
    page = opened("../docs/", url=raw.url)
    form = page.locator('section[data-model="image-vit"] [data-form="raw"]')
    picker = form.get_by_label("or a file")
    expect(picker).to_have_attribute("accept", re.compile("image/jpeg,image/png"))
    send, status, answer = (
        form.get_by_role("button", name="Send"),
        form.get_by_role("status"),
        form.get_by_label("Answer"),
    )
    send.click()  # the example, an image in base64
    expect(status).to_contain_text("200 in")
    picker.set_input_files(PHOTOS / "rgb-64x48.jpg")
    send.click()
    expect(answer).to_contain_text("fish")
    form.get_by_label("Parameters of the file").fill('{"top_k": 1}')
    send.click()
    expect(answer).not_to_contain_text("fish")
    expect(answer).to_contain_text("tree")
    form.get_by_role("button", name="No file").click()
    form.get_by_label("Request", exact=True).fill('{"nonsense": 1}')
    send.click()
    expect(status).to_contain_text("400 in")


def test_a_table_of_texts_is_picked_and_sent(opened: Open, raw: ServerProcess) -> None:
    page = opened("../docs/", url=raw.url)
    form = page.locator('section[data-model="qa"] [data-form="raw"]')
    rows = {
        "name": "rows.csv",
        "mimeType": "",
        "buffer": b"question,context\nwho,i am berta\nwho,i am carl\n",
    }
    form.get_by_label("or a file").set_input_files(rows)  # type: ignore[arg-type]
    form.get_by_role("button", name="Send").click()
    expect(form.get_by_role("status")).to_contain_text("200 in")
    expect(form.get_by_label("Answer")).to_contain_text('"answer"')


@pytest.mark.parametrize("name", sorted(FILES))
def test_its_files_are_small_and_need_nothing_from_elsewhere(name: str) -> None:
    text = FILES[name].body.decode()
    assert len(text) < 12_000
    assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=\"|\sstyle=|innerHTML|\beval\(", text)
