"""Imports that are carried out when a name is used."""

import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from salver.lazy import LazyName, has_names, is_made, lazily, load_names

LATER = """
made = []

class Thing:
    def __init__(self, size=1):
        made.append(size)
        self.size = size

def double(number):
    return 2 * number
"""
USER = """
from salver.lazy import lazy_imports

with lazy_imports():
    import json
    from later_package import later
    from later_package.later import Thing, double as twice

TABLE = {"twice": twice}

def annotated(thing: Thing | None, *others: object) -> list[Thing]:
    return [thing, *others]
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that imports another one lazily."""
    package = tmp_path / "later_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "later.py").write_text(LATER)
    (package / "user.py").write_text(USER)
    monkeypatch.syspath_prepend(str(tmp_path))
    from later_package import user as found  # type: ignore[import-not-found]

    yield found
    for name in [name for name in sys.modules if name.startswith("later_package")]:
        del sys.modules[name]


def is_there() -> bool:
    return "later_package.later" in sys.modules


def test_nothing_is_imported_until_a_name_is_used(user: Any) -> None:
    assert not is_there()
    assert user.json.dumps([1]) == "[1]"  # a plain import is an ordinary one
    assert not is_there()
    assert user.twice(2) == 4
    assert is_there()


def test_a_name_becomes_the_object_itself_when_it_is_used(user: Any) -> None:
    assert isinstance(user.Thing, LazyName)
    assert user.Thing(3).size == 3
    assert user.Thing is sys.modules["later_package.later"].Thing  # type: ignore[attr-defined]
    assert user.later.double(1) == 2
    assert isinstance(user.later, ModuleType)


def test_what_a_table_keeps_can_be_called_all_the_same(user: Any) -> None:
    call = user.TABLE["twice"]
    assert [call(1), call(2)] == [2, 4]


def test_nothing_is_an_instance_of_a_class_that_nobody_has_imported(user: Any) -> None:
    kept = user.Thing
    assert not isinstance(1, kept)
    assert not is_there()
    thing = kept()
    assert isinstance(thing, kept)
    assert isinstance(thing, user.Thing)


def test_a_name_reaches_another_process_as_the_object(user: Any) -> None:
    assert pickle.loads(pickle.dumps(user.TABLE["twice"]))(4) == 8


def test_all_names_of_a_module_are_imported_at_once(user: Any) -> None:
    assert has_names("later_package.user")
    load_names("later_package")
    assert not has_names("later_package.user")
    assert not isinstance(user.Thing, LazyName)


def test_other_modules_import_as_always_meanwhile(user: Any) -> None:
    assert __import__ is __builtins__["__import__"]  # type: ignore[index]
    assert type(__import__).__name__ == "builtin_function_or_method"


def test_a_missing_name_is_told_when_it_is_used() -> None:
    with pytest.raises(ImportError):
        LazyName("salver.words", "nothing_of_the_kind")()


def test_an_object_is_made_when_an_attribute_is_used(user: Any) -> None:
    thing = lazily(user.Thing, size=5)
    assert not is_made(thing)
    assert not is_there()
    assert thing.size == 5
    assert is_made(thing)
    assert sys.modules["later_package.later"].made == [5]  # type: ignore[attr-defined]


def test_several_threads_make_one_object(user: Any) -> None:
    thing = lazily(user.Thing)
    threads = [threading.Thread(target=lambda: thing.size) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.modules["later_package.later"].made == [1]  # type: ignore[attr-defined]
