"""The command line of releases: a server serves a registry, people push, let aliases move, and decide."""

import contextlib
import io
import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import kubernetes_api
import pytest
from waiting import until
from zoo import write_mlp

from salver.cli import main
from salver.terminal import output
from salver.testing.process import ServerProcess

POLICY = """
bucket_seconds = 0.5
stages = [{ weight = 0.1, minutes = 60 }, { weight = 0.5, minutes = 60 }]

[[metrics]]
name = "errors"
kind = "errors"
severity = "severe"
negligible = 0.001
"""


class Shell:
    """Somebody at a keyboard, with a registry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "registry"

    def say(self, *words: str, status: int = 0) -> str:
        """What a command prints on both streams, its result first. It runs here: a process of its own starts
        for longer than most of them take.
        """
        result, remarks = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(result),
            contextlib.redirect_stderr(remarks),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("SALVER_REGISTRY", str(self.registry))
            code = main(words)
        text = result.getvalue() + remarks.getvalue()
        assert code == status, text
        return text

    def told(self, *words: str) -> list[dict[str, Any]]:
        """The same as JSON, without what is beside the result."""
        lines = self.say(*words, "--json").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def push(self, alias: str = "") -> None:
        number = len(list(self.folder.glob("v*")))
        write_mlp(self.folder / f"v{number}", 1)
        more = ["--alias", alias] if alias else []
        self.say(
            "registry", "push", str(self.folder / f"v{number}" / "1" / "model.onnx"), "--name", "mlp", *more
        )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Two versions, of which nobody lets an alias move."""
    shell = Shell(tmp_path_factory.mktemp("shell"))
    shell.push("champion")
    shell.push()
    (shell.folder / "policy.toml").write_text(POLICY)
    (shell.folder / "typo.toml").write_text("alpa = 0.1")
    (shell.folder / "other.toml").write_text(
        '[[metrics]]\nname = "z"\nkind = "rule"\nseverity = "severe"\noutput = "z"\nleast = 0'
    )
    return shell


@pytest.fixture
def shell(filled: Shell, tmp_path: Path) -> Shell:
    """The same, for one test."""
    return Shell(Path(shutil.copytree(filled.folder, tmp_path / "shell")))


def answers(server: ServerProcess, name: str = "mlp") -> str:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
    status, answer = server.post(f"/v2/models/{name}/infer", body)
    assert status == 200, answer
    version: str = answer["model_version"]
    return version


def turns(server: ServerProcess, version: str) -> None:
    """It is written down first, and traffic moves then, within a look at the registry."""
    until(lambda: answers(server) == version)
    assert {answers(server) for _ in range(50)} == {version}


def comes(shell: Shell, release: str, state: str) -> dict[str, Any]:
    """Looked for in the ledger: a command takes longer to start than a release to move."""
    with contextlib.closing(sqlite3.connect(shell.registry / "salver.db")) as ledger:
        until(
            lambda: (
                ledger.execute("SELECT state FROM release WHERE id = ?", [release]).fetchone() == (state,)
            ),
            lambda: shell.told("rollout", "status", release),
        )
    (told,) = shell.told("rollout", "status", release)
    assert told["state"] == state, told
    return told


def test_a_move_of_an_alias_is_a_release_that_people_may_hasten_and_take_back(shell: Shell) -> None:
    shell.say("rollout", "policy", "mlp", "policy.toml")
    assert '"bucket_seconds": 0.5' in shell.say("rollout", "policy", "mlp")
    with ServerProcess([], shell.folder / "log", ["--registry", str(shell.registry)]) as server:
        server.wait_ready()
        assert answers(server) == "1"
        (move,) = shell.told("registry", "alias", "mlp@champion", "2", "--why", "more data")
        release = move["release"]
        assert comes(shell, release, "RUNNING")["weight"] == 0.1
        assert "is in release" not in shell.say("rollout", "status", "--model", "mlp")
        assert {answers(server, "mlp@champion") for _ in range(200)} == {"1", "2"}
        services = ["--gateway", "infra/web", "--stable", "mlp-v1", "--canary", "mlp-v2"]
        route = json.loads(shell.say("rollout", "route", release, *services))
        assert [(b["name"], b["weight"]) for b in route["spec"]["rules"][0]["backendRefs"]] == [
            ("mlp-v1", 9000),
            ("mlp-v2", 1000),
        ]
        assert route["spec"]["parentRefs"] == [{"name": "web", "namespace": "infra"}]
        with kubernetes_api.running(shell.folder) as (api, kubeconfig):
            told = shell.say(
                "rollout", "route", release, *services, "--apply", "--kubeconfig", str(kubeconfig)
            )
            assert told == "HTTPRoute models/mlp: 10.00% to mlp-v2, RUNNING\n"
            assert [*api.objects.values()] == [route]
        shell.say("rollout", "pause", release, "--why", "lunch")
        assert "lunch" in shell.say("rollout", "status", release)
        shell.say("rollout", "resume", release)
        shell.say("rollout", "promote", release)
        (found,) = shell.told("rollout", "status", release)
        assert (found["stage"], found["weight"]) == (1, 0.5)
        assert "CONTINUE at stage" in shell.say("rollout", "explain", release, "--all")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(output, "on_terminal", lambda: True)
            patch.setenv("COLUMNS", "80")
            told = shell.say("rollout", "explain", release).splitlines()
        assert "counted by 1 server" in told
        assert max(map(len, told)) <= 80 and any(line.startswith("errors: ") for line in told)
        assert "bit by bit" in shell.say("rollout", "replay", release)
        shell.say("rollout", "promote", release, "--why", "seen enough")
        comes(shell, release, "PROMOTED")
        turns(server, "2")
        moved = [one for one in shell.told("registry", "history", "mlp") if one["action"] == "alias.moved"]
        assert (moved[0]["subject"], moved[0]["after"]) == ("champion", "2")
        shell.say("rollout", "abort", release, "--why", "users complain")
        comes(shell, release, "ROLLED_BACK")
        turns(server, "1")
        assert "final" in shell.say("rollout", "promote", release, status=1)


def test_before_it_starts_it_says_what_the_traffic_can_show(filled: Shell) -> None:
    told = filled.say(
        "rollout",
        "start",
        "mlp",
        "2",
        "--rate",
        "100",
        "--event",
        "errors=0.005",
        "--dry-run",
        "--policy",
        "policy.toml",
    )
    assert "errors: can see ×" in told
    few = ("rollout", "start", "mlp", "2", "--rate", "5", "--users", "6", "--processes", "3", "--dry-run")
    assert "6 users are too few to prove" in " ".join(filled.say(*few).split())
    assert "there are no releases" in filled.say("rollout", "status")
    assert "--rate" in filled.say("rollout", "start", "mlp", "2", "--url", "http://127.0.0.1:9", "--dry-run")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["start", "mlp", "9"], "9"),
        (["start", "mlp", "1"], "its own place"),
        (
            ["start", "mlp", "newest"],
            "'newest' is no version of 'mlp'; versions are numbers as listed. List:",
        ),
        (["start", "mlp", "2", "--rate", "-5"], "(at --rate). Give a num"),
        (["start", "mlp", "2", "--rate", "5", "--processes", "0"], "processes is 0"),
        (["start", "mlp", "2", "--rate", "5", "--event", "errors=5"], "(at --event errors). Give a num"),
        (["start", "nobody", "2"], "'nobody' is not in the registry"),
        (["start", "mlp@gold", "2"], "no alias 'gold'"),
        (["start", "mlp", "2", "--event", "eror=0.1"], "no metric 'eror'. It has: errors"),
        (
            ["start", "mlp", "2", "--policy", "other.toml"],
            "output 'z', which mlp/1 does not have",
        ),
        (["policy", "mlp", "other.toml"], "looks at the output 'z'"),
        (
            ["policy", "mlp", "typo.toml"],
            "typo.toml: this is not a valid release policy: Object",
        ),
        (["start", "mlp", "2", "--alias", "gold"], "no alias 'gold'"),
        (["start", "mlp", "2", "--policy", "nowhere.toml"], "is not a valid policy"),
        (["start", "mlp", "2", "--event", "errors"], "METRIC=SHARE"),
        (["policy", "mlp", "policy.toml", "--usual"], "one policy"),
        (["status", "r9"], "no release 'r9'"),
        (["pause", "r9"], "no release 'r9'"),
        (["explain", "r9"], "no release 'r9'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_is_said_with_the_fix(filled: Shell, words: list[str], what: str) -> None:
    assert what in filled.say("rollout", *words, status=1)


def test_a_release_without_a_server_waits(shell: Shell) -> None:
    (new,) = shell.told("rollout", "start", "mlp", "2", "--rate", "1", "--policy", "policy.toml")
    assert (new["state"], new["alias"], new["stable"]) == ("PROPOSED", "champion", "1")
    assert "nothing was counted yet" in shell.say("rollout", "explain", new["id"])
    services = ["--gateway", "web", "--stable", "a", "--canary", "b"]
    assert "shares no traffic out" in shell.say("rollout", "route", new["id"], *services, status=1)
    refused = shell.say("rollout", "start", "mlp", "2", "--rate", "1", status=1)
    assert refused.startswith("error: the release ") and "is under way" in refused  # and foretells nothing
    assert "stage 1" in shell.say("rollout", "start", "mlp", "2", "--rate", "1", "--dry-run")


def test_whoever_waits_for_a_server_that_is_not_there_is_told(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["salver.features.releases.command"], "_PAUSE_SECONDS", 0.0)
    (new,) = shell.told("rollout", "start", "mlp", "2", "--rate", "1", "--policy", "policy.toml")
    told = shell.say("rollout", "abort", new["id"])
    assert told.index("it is written down") < told.index("is one running with this registry?")


def test_a_script_waits_for_the_end_and_no_longer_than_it_says(shell: Shell) -> None:
    start = ["rollout", "start", "mlp", "2", "--policy", "policy.toml", "--rate", "10"]
    (forecast,) = shell.told(*start, "--dry-run")
    assert forecast["metrics"][0]["name"] == "errors"
    waited = shell.say(*start, "--wait", "--timeout", "0.1", "--json", status=4)  # no server begins it
    (release,) = [json.loads(line) for line in waited.splitlines() if line.startswith("{")]
    assert release["state"] == "PROPOSED"
    assert release["id"] in shell.say("rollout", "status", release["id"], "-w", "--timeout", "0.1", status=4)
