"""``salver keys`` against a file, a ledger and a server."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from databases import empty_ledger
from waiting import until
from zoo import write_mlp

from salver.cli import main
from salver.features.access.key_format import is_key
from salver.features.access.keys_file import KeyRecord, hash_of, read, table, written
from salver.testing.process import ServerProcess
from salver.words.messages import ANYBODY, Standing

TOKEN = "an-example-token-of-a-test"
ONE = KeyRecord("k1", "ada", hash_of("a"), ("infer",))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_the_life_of_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ("--keys-file", str(tmp_path / "keys.toml"))
    assert (
        main(["keys", "create", "web", "--scope", "infer:m*", "--scope", "read", "--expires", "90d", *file])
        == 0
    )
    key = said(capsys).strip()
    assert is_key(key)
    (made,) = read(tmp_path / "keys.toml")
    assert made.hash == hash_of(key)
    assert key not in (tmp_path / "keys.toml").read_text()
    assert made.not_after is not None and made.created is not None
    assert made.not_after - made.created == timedelta(days=90)
    assert made.scopes == ("infer:m*", "read")

    assert main(["keys", "list", *file]) == 0
    assert re.search(rf"{made.id} +web +infer:m\* read +valid", said(capsys))
    assert main(["keys", "rotate", made.id, "--overlap", "12h", "--json", *file]) == 0
    new = json.loads(said(capsys))["key"]
    (rotated,) = read(tmp_path / "keys.toml")
    assert (rotated.id, rotated.hash, rotated.not_after) == (made.id, hash_of(new), made.not_after)
    assert rotated.previous is not None and rotated.previous.hash == hash_of(key)

    assert main(["keys", "revoke", made.id, *file]) == 0
    assert main(["keys", "show", made.id, "--json", *file]) == 0
    shown = json.loads(said(capsys).splitlines()[-1])
    assert (shown["state"], shown["name"]) == ("revoked", "web")
    assert "hash" not in str(shown) and "sha256" not in str(shown)
    assert not table(read(tmp_path / "keys.toml"))


def test_the_standing_of_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ("--keys-file", str(tmp_path / "keys.toml"))
    standing = ("--tenant", "acme", "--priority", "2", "--service-class", "bulk")
    assert main(["keys", "create", "web", *standing, *file]) == 0
    assert main(["keys", "create", "plain", *file]) == 0
    (web, plain) = read(tmp_path / "keys.toml")
    found = {key.id: key.granted for key in table([web, plain]).values()}
    assert found == {web.id: Standing("acme", 2, "bulk"), plain.id: ANYBODY}
    assert main(["keys", "rotate", web.id, *file]) == 0
    assert {key.granted for key in table(read(tmp_path / "keys.toml")[:1]).values()} == {found[web.id]}
    said(capsys)
    assert main(["keys", "show", web.id, "--json", *file]) == 0
    shown = json.loads(said(capsys))
    assert (shown["tenant"], shown["priority"], shown["service_class"]) == ("acme", 2, "bulk")
    assert main(["keys", "show", plain.id, "--json", *file]) == 0
    assert not {"tenant", "priority", "service_class"} & json.loads(said(capsys)).keys()


@pytest.mark.parametrize(
    "words",
    [
        ("create", "web", "--scope", "drive"),
        ("create", "web", "--expires", "soon"),
        ("create", "web", "--limit", "many"),
        ("create", "web", "--at-once", "-1"),
        ("create", "web", "--tenant", "é"),
        ("create", "web", "--priority", "-1"),
        ("create", "web\n"),
        ("show", "k0"),
        ("rotate", "k0"),
        ("revoke", "k0"),
        ("rotate", "k1", "--overlap", "31d"),
        ("rotate", "k2"),  # which is revoked
    ],
)
def test_commands_that_are_refused(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    revoked = KeyRecord("k2", "bob", hash_of("b"), ("infer",), revoked=datetime(2026, 1, 1, tzinfo=UTC))
    path = tmp_path / "keys.toml"
    path.write_text(written([ONE, revoked]))
    assert main(["keys", *words, "--keys-file", str(path)]) == 1
    assert path.read_text() == written([ONE, revoked])
    assert said(capsys) == ""


@pytest.fixture(params=["--keys-file", "--registry", "--ledger", "--url", "--url of a file"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """Each place of keys, as options of the command."""
    folder = tmp_path / "registry"
    match request.param:
        case "--keys-file":
            yield "--keys-file", str(tmp_path / "keys.toml")
        case "--registry":
            yield "--registry", str(folder)
        case "--ledger":
            yield "--ledger", empty_ledger("postgresql", tmp_path)
        case _:
            (tmp_path / "token").write_text(TOKEN)
            monkeypatch.setenv("SALVER_TOKEN", TOKEN)
            options = ["--registry", str(folder), "--api-token-file", str(tmp_path / "token")]
            models = []
            if request.param != "--url":
                (tmp_path / "keys.toml").touch()
                write_mlp(tmp_path / "models" / "mlp", 1)
                options[:2], models = ["--keys-file", str(tmp_path / "keys.toml")], [tmp_path / "models"]
            with ServerProcess(models, tmp_path / "log", options) as server:
                until(lambda: "ready in" in server.output())
                yield "--url", server.url


def test_the_same_words_everywhere(place: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    def do(*words: str) -> Any:
        assert main(["keys", *words, *place, "--json"]) == 0
        return json.loads(said(capsys))

    def fails(*words: str) -> str:
        assert main(["keys", *words, *place]) == 1
        return capsys.readouterr().err

    standing = ("--tenant", "acme", "--priority", "2", "--note", "for the shop")
    made = do("create", "web", "--scope", "infer:m*", "--limit", "5/s", "--expires", "1d", *standing)
    assert is_key(made["key"]) and made["scopes"] == ["infer:m*"]
    shown = do("show", "web")
    assert (shown["id"], shown["state"], shown["tenant"], shown["priority"], shown["note"]) == (
        *(made["id"], "valid", "acme", 2),
        "for the shop",
    )
    assert shown["limits"] == {"requests": "5/s"} and shown["expires"] > shown["created"]
    assert "hash" not in shown and made["key"] not in str(shown)

    assert do("limits", "web", "--at-once", "3")["limits"] == {"requests": "5/s", "at_once": 3}
    assert do("limits", made["id"], "--limit", "none")["limits"] == {"at_once": 3}
    assert do("limits", "web")["limits"] == {"at_once": 3}
    assert "limits" not in do("limits", "web", "--at-once", "0")
    assert "is no rate" in fails("limits", "web", "--limit", "many")

    assert do("limits", "web", "--limit", "9/s")["limits"] == {"requests": "9/s"}
    before = do("show", "web")
    assert do("edit", "web") == before, "what is not given stays"
    scopes = ("--scope", "read", "--scope", "infer:x*")
    edited = do("edit", made["id"], *scopes, "--owner", "ann", "--expires", "never", "--why", "new team")
    assert edited["scopes"] == ["read", "infer:x*"] and edited["owner"] == "ann"
    assert edited["limits"] == {"requests": "9/s"} and edited["note"] == "for the shop"
    assert "expires" not in edited
    assert do("edit", "web", "--note", "", "--expires", "2h").keys() == before.keys() - {"note"} | {"owner"}
    assert "is no scope" in fails("edit", "web", "--scope", "drive")
    assert "is no time" in fails("edit", "web", "--expires", "soon")
    do("edit", "web", "--scope", "infer:m*")

    turned = do("rotate", "web", "--overlap", "2h", "--why", "it leaked")
    assert is_key(turned["key"]) and turned["id"] == made["id"] and turned["key"] != made["key"]
    assert do("list")["previous_until"] > shown["created"]
    assert do("revoke", "web") == {"id": made["id"], "done": "revoked"}
    assert do("revoke", "web") == {"id": made["id"], "done": "revoked"}
    assert do("show", "web")["state"] == "revoked"
    assert "is revoked" in fails("rotate", "web") and "is revoked" in fails("limits", "web", "--at-once", "1")
    assert "is revoked" in fails("edit", "web", "--owner", "bob")
    assert "no key 'none'" in fails("show", "none")

    assert main(["keys", "list", *place]) == 0
    assert re.search(rf"{made['id']} +web +infer:m\* +revoked", said(capsys))
    assert main(["keys", "show", "web", *place]) == 0
    assert re.search(r"^expires +20..-..-.. ..:..:..Z$", said(capsys), re.MULTILINE)


def test_limits_of_tenants_models_and_the_server_everywhere(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", "web", *place]) == 0  # makes the place

    def limits(*words: str) -> Any:
        said(capsys)
        assert main(["keys", "limits", *words, *place, "--json"]) == 0
        return json.loads(said(capsys))

    assert limits() == {}
    assert limits("--server", "--at-once", "256") == {"server": {"at_once": 256}}
    assert limits("--tenant", "acme", "--limit", "5/s+9")["tenants"] == {"acme": {"requests": "5/s+9"}}
    assert limits("--model", "llm-*", "--tokens", "9/s", "--why", "it is slow")["models"].keys() == {"llm-*"}
    acme = limits("--tenant", "acme", "--rows", "7/m")["tenants"]["acme"]
    assert acme == {"requests": "5/s+9", "rows": "7/m"}
    assert limits("--server", "--at-once", "0").keys() == {"tenants", "models"}, "it has none any more"
    assert limits() == limits("--tenant", "acme")
    for wrong, text in (
        (("--tenant", "acme", "--limit", "many"), "is no rate"),
        (("--tenant", "acme", "--quota", "5/day"), "a tenant has no quotas"),
        (("--tenant", "acme", "--model", "m", "--at-once", "1"), "one at a time"),
        (("--at-once", "1"), "whose limits"),
    ):
        assert main(["keys", "limits", *wrong, *place]) == 1
        assert text in capsys.readouterr().err
    assert main(["keys", "limits", *place]) == 0
    assert re.search(r"^tenants acme +requests 5/s\+9, rows 7/m$", said(capsys), re.MULTILINE)
    assert main(["keys", "show", "web", *place]) == 0, "the keys stay"


def test_keys_are_in_one_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = str(tmp_path / "keys.toml"), str(tmp_path / "registry")
    assert main(["keys", "list", "--keys-file", file, "--registry", folder]) == 1
    assert "one place at a time" in capsys.readouterr().err
    assert main(["keys", "list", "--registry", folder]) == 1
    assert "there is no registry" in capsys.readouterr().err, "listing makes none"
    monkeypatch.setenv("SALVER_REGISTRY", folder)
    assert main(["keys", "create", "web"]) == 0
    monkeypatch.setenv("SALVER_KEYS_FILE", file)
    assert main(["keys", "create", "shop"]) == 0
    capsys.readouterr()
    for words, name in (((), "shop"), (("--registry", folder), "web")):  # an option goes first
        assert main(["keys", "list", "--json", *words]) == 0
        assert json.loads(said(capsys))["name"] == name


def test_a_server_without_a_ledger_has_no_keys_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    with ServerProcess([tmp_path / "models"], tmp_path / "log") as server:
        server.wait_ready()
        assert main(["keys", "list", "--url", server.url]) == 1
    assert "Start it with --registry, or with --keys-file" in capsys.readouterr().err
