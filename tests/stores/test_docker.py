"""What ``docker login`` has kept: in its file, and with helpers that answer, fail, or never end."""

import base64
import json
import os
from pathlib import Path

import pytest

from salver.stores.sources.docker import docker_credentials
from salver.words.errors import InvalidInput


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    return tmp_path


def known(home: Path, host: str, seconds: float = 10.0) -> tuple[str, str] | None:
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return docker_credentials({"DOCKER_CONFIG": str(home), "PATH": path}, seconds)(host)


def config(home: Path, **said: object) -> None:
    (home / "config.json").write_text(json.dumps(said))


def helper(home: Path, name: str, script: str) -> None:
    program = home / "bin" / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


#: Answers with the host that it was asked of, as the password.
KIND = """read host; echo "{\\"Username\\": \\"$1 $0\\", \\"Secret\\": \\"$host\\"}" | sed 's#/[^ "]*/##'"""


def test_passwords_of_docker_hub(home: Path) -> None:
    config(home, auths={"https://index.docker.io/v1/": auth("ann", "pass:word")})
    assert (known(home, "docker.io"), known(home, "other.example")) == (("ann", "pass:word"), None)
    (home / "config.json").unlink()
    assert known(home, "docker.io") is None


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"auths": []}', b'{"auths": {"h": {"auth": "!"}}}', b"\xff", b'{"credHelpers": 7}'],
    ids=["cut", "list", "odd", "base64", "bytes", "helpers"],
)
def test_a_file_of_passwords_that_is_none(home: Path, content: bytes) -> None:
    (home / "config.json").write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read"):
        known(home, "h")


def test_a_hosts_own_helper_is_asked_before_the_one_for_all_and_the_file(home: Path) -> None:
    helper(home, "own", KIND)
    helper(home, "store", KIND)
    config(home, credHelpers={"a.example": "own"}, credsStore="store", auths={"a.example": auth("u", "p")})
    assert known(home, "a.example") == ("get docker-credential-own", "a.example")
    assert known(home, "b.example:5000") == ("get docker-credential-store", "b.example:5000")
    assert known(home, "docker.io") == ("get docker-credential-store", "docker.io")


def test_where_a_helper_knows_nothing_the_file_counts(home: Path) -> None:
    helper(home, "store", "echo credentials not found in native keychain; exit 1")
    config(home, credsStore="store", auths={"a.example": auth("u", "p")})
    assert (known(home, "a.example"), known(home, "b.example")) == (("u", "p"), None)


def test_a_token_of_an_identity_goes_before_the_password_beside_it(home: Path) -> None:
    """As ``az acr login`` writes it; helpers know the same name."""
    config(home, auths={"a.example": {**auth("00000000-0000", ""), "identitytoken": "t"}})
    assert known(home, "a.example") == ("<token>", "t")
    helper(home, "store", """echo '{"Username": "<token>", "Secret": "u"}'""")
    config(home, credsStore="store")
    assert known(home, "a.example") == ("<token>", "u")


@pytest.mark.parametrize(
    ("name", "script", "problem"),
    [
        ("none", "", "cannot be run: No such file"),
        ("x", "echo no keychain here >&2; exit 3", "fails for h: no keychain here"),
        ("x", "echo no JSON", "returns no name and password"),
        ("x", "echo '{}'", "returns no name and password"),
        ("x", "echo 7", "returns no name and password"),
        ("../x", "", "names no helper"),
        ("x", "exec sleep 30", "did not answer within 0.3 s"),
    ],
    ids=["missing", "fails", "text", "empty", "number", "path", "hangs"],
)
def test_a_helper_that_does_not_help(home: Path, name: str, script: str, problem: str) -> None:
    if name == "x":
        helper(home, name, script)
    config(home, credsStore=name)
    with pytest.raises(InvalidInput, match=problem):
        known(home, "h", 0.3 if "sleep" in script else 10.0)
