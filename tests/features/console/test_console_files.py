"""Are the console's files whole, small, and at home here?"""

import re
from typing import get_args
from urllib.parse import urljoin

import pytest

from salver.features.console import files as console
from salver.features.registry.records import Action

FILES = console.read()
ABROAD = re.compile(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9.-]+\.[a-z]{2,}", re.I)


def test_every_file_has_its_type_and_the_first_page_is_there() -> None:
    assert FILES["index.html"].content_type == "text/html; charset=utf-8"
    assert {name.rpartition(".")[2] for name in FILES} <= {"html", "css", "js", "svg"}
    assert sum(len(file.body) for file in FILES.values()) < 200_000


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    assert ABROAD.findall(FILES[name].body.decode()) == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_a_file_names_is_there(name: str) -> None:
    text = FILES[name].body.decode()
    named = re.findall(r'(?:from|import) "(\./[^"]+)"', text) + re.findall(
        r'(?:src|href)="([\w.-]+\.\w+)"', text
    )
    assert {urljoin("/", path).lstrip("/") for path in named} <= set(FILES)


def test_every_change_of_the_audit_can_be_chosen() -> None:
    listed = re.search(r"ACTIONS = \[(.*?)\]", FILES["audit.js"].body.decode(), re.S)
    assert listed
    assert sorted(re.findall(r'"([\w.]+)"', listed[1])) == sorted(get_args(Action))  # each once


def test_the_policy_lets_the_pages_run() -> None:
    """No inline script or style, which ``default-src 'self'`` forbids."""
    page = FILES["index.html"].body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page)
    for name, file in FILES.items():
        if name.endswith(".js"):
            assert not re.search(
                r"\bstyle:|innerHTML|insertAdjacentHTML|\beval\(|new Function", file.body.decode()
            ), name
