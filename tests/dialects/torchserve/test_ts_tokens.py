"""TorchServe's keys: who may ask what, until when."""

import json
import stat
from itertools import count
from pathlib import Path

import pytest

from salver.dialects.torchserve.rules import TokenRules
from salver.dialects.torchserve.tokens import TokenKeys
from salver.words.errors import InvalidInput, Unauthenticated


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def made(path: Path, minutes: float = 60) -> tuple[TokenKeys, Clock, dict[str, str]]:
    clock = Clock()
    numbers = count(1)
    keys = TokenKeys(TokenRules(str(path), minutes), clock, lambda: f"key-{next(numbers)}")
    keys.write()
    return keys, clock, {name: entry["key"] for name, entry in json.loads(path.read_text()).items()}


@pytest.mark.clause("TS-B11")
def test_the_file_has_three_keys_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    path.write_text("of a run before")
    path.chmod(0o644)
    made(path)
    assert json.loads(path.read_text()) == {
        "management": {"key": "key-3", "expiration time": "2023-11-14T23:13:20.000000Z"},
        "inference": {"key": "key-2", "expiration time": "2023-11-14T23:13:20.000000Z"},
        "API": {"key": "key-1"},
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["key_file.json"]


@pytest.mark.clause("TS-M8")
@pytest.mark.parametrize(
    ("header", "opens"),
    [
        ("Bearer {}", True),
        ("Bearer   {}", True),
        ("Bearer {} ", True),
        ("bearer {}", False),
        ("Bearer{}", False),
        ("Bearer {}x", False),
        ("Bearer", False),
        ("{}", False),
        ("", False),
        ("Bearer é", False),
    ],
)
def test_a_key_stands_behind_the_word_bearer(tmp_path: Path, header: str, opens: bool) -> None:
    keys, _, given = made(tmp_path / "k")
    assert keys.allows("inference", header.format(given["inference"])) is opens
    assert not keys.allows("inference", header.format(given["management"]))
    assert not keys.allows("management", header.format(given["API"]))


@pytest.mark.clause("TS-B11")
def test_keys_end(tmp_path: Path) -> None:
    keys, clock, given = made(tmp_path / "k", 0.5)
    shown = f"Bearer {given['management']}"
    clock.now += 29.9
    keys.check(shown, "management")
    keys.check(shown, "inference", "management")
    clock.now += 0.1
    with pytest.raises(Unauthenticated, match="Token Authorization failed"):
        keys.check(shown, "management")
    assert not made(tmp_path / "k", 0)[0].allows("inference", "Bearer key-2")


@pytest.mark.clause("TS-M8")
def test_a_renewed_key_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "k"
    keys, clock, given = made(path, 1)
    clock.now += 100
    keys.renew("inference", f"Bearer {given['API']}")
    fresh = json.loads(path.read_text())
    assert keys.allows("inference", f"Bearer {fresh['inference']['key']}")
    assert not keys.allows("inference", f"Bearer {given['inference']}")
    assert fresh["management"]["key"] == given["management"]
    for wanted, key in (("inference", "management"), ("API", "API"), ("", "API"), ("inference", "inference")):
        with pytest.raises(Unauthenticated, match="Token Authentication failed"):
            keys.renew(wanted, f"Bearer {given[key]}")


def test_keys_that_cannot_be_written_are_told_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "there" / "k"
    path.parent.mkdir()
    keys, _, given = made(path)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(InvalidInput, match="disable_token_authorization"):
        keys.renew("inference", f"Bearer {given['API']}")
    assert keys.allows("inference", f"Bearer {given['inference']}")
    assert given["API"] not in repr(keys)
