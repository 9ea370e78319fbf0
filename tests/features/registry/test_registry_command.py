"""``salver registry``: what it takes, what it prints, and how it ends."""

import json
import socket
from pathlib import Path

import pytest
import zoo

from salver.cli import main
from salver.features.ledger.faults import LedgerFailed
from salver.features.registry.deliveries import Deliverer


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs a command on a registry of its own; what it printed."""
    monkeypatch.setenv("SALVER_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.delenv("SALVER_TOKEN", raising=False)
    zoo.write_mlp(tmp_path / "mlp", 1)

    def run(*words: str, ends: int = 0) -> str:
        capsys.readouterr()
        code = main(["registry", *words])
        printed = capsys.readouterr()
        assert code == ends, printed
        return printed.out if ends == 0 else printed.out + printed.err

    run.model = str(tmp_path / "mlp")  # type: ignore[attr-defined]
    return run


def push(say, *words: str) -> str:  # type: ignore[no-untyped-def]
    printed: str = say("push", say.model, "--name", "fraud", "--unloaded", *words)
    return printed


def test_a_version_from_push_to_removal(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: mit\n---\n# Fraud\nFinds it.\n")
    words = ["--alias", "champion", "--tag", "team=risk", "--metric", "auc=.93", "--parent", "data:s3://x"]
    printed = push(say, *words, "--card", str(card), "--why", "first")
    assert printed.startswith("fraud/1 sha256:")
    assert printed.rstrip().endswith("fraud@champion fraud@latest")
    push(say, "--metric", "auc=0.95")
    assert say("list").split() == ["model", "latest", "versions", "aliases", "fraud", "2", "2", "champion=1"]
    assert "auc=0.93" in say("list", "fraud")
    shown = say("show", "fraud@champion")
    for text in (
        "fraud/1\n",
        "onnx (onnx)",
        "model.onnx",
        "ann: first",
        "s3://x",
        "team=risk",
        "license=mit",
        "# Fraud",
    ):
        assert text in shown
    assert say("alias", "fraud@champion", "latest", "--why", "better") == "fraud@champion means fraud/2\n"
    assert say("alias", "fraud@old", "1") == "fraud@old means fraud/1\n"
    assert say("alias", "fraud@old", "--default") == "fraud@old is the default\n"
    assert "champion=2, old=1 (default)" in say("list")
    assert (
        say("alias", "fraud@old", "--default")
        and say("alias", "fraud@old", "--delete") == "fraud@old deleted\n"
    )
    say("tag", "fraud/1", "ok=yes", "--remove", "team")
    say("metric", "fraud/1", "f1=0.5")
    version = json.loads(say("show", "fraud/1", "--json"))
    assert (version["tags"], version["metrics"]) == ({"ok": "yes"}, {"auc": 0.93, "f1": 0.5})
    assert "auc" in say("diff", "fraud/1", "fraud/2")
    moved = [
        line.split()
        for line in say("history", "fraud").splitlines()
        if "alias.moved" in line and "better" in line
    ]
    assert [(row[2], row[-3], row[-2], row[-1]) for row in moved] == [("ann", "1", "2", "better")]
    assert version["digest"][7:19] in say("history", "fraud").split()
    assert say("verify") == "every file is as it was pushed\n"
    assert say("remove", "fraud/1", "--why", "old") == "fraud/1 is removed\n"
    assert say("diff", "fraud", "fraud/2") == "fraud and fraud/2 are the same model\n"
    assert say("sweep", "--hours", "0") == "nothing was left behind\n"


def test_a_terminal_obeys_nothing_that_others_have_written(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Cards, tags and reasons come from elsewhere with a model."""
    card = tmp_path / "card.md"
    card.write_text('---\nlicense: "mit\\e[2J"\n---\n# Fraud\x1b[2J\n\tFinds\x9b it.\n')
    push(say, "--card", str(card), "--tag", "team=\x1b[2Jrisk", "--why", "first\x07\nof\tall\x1b]0;x")
    shown = say("show", "fraud")
    assert "\n# Fraud?[2J\n        Finds? it.\n" in shown
    for told in (shown, say("list", "fraud"), say("history"), say("tag", "fraud", "a=b")):
        assert told.replace("\n", "").isprintable()
    assert "\x1b" in json.loads(say("show", "fraud", "--json"))["card"]


def test_results_are_json_where_asked_for(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pushed = json.loads(push(say, "--alias", "champion", "--json"))
    assert (pushed["number"], pushed["aliases"]) == (1, ["champion", "latest"])
    assert json.loads(say("list", "--json"))["aliases"] == {"champion": 1}
    assert json.loads(say("list", "fraud", "--json"))["digest"] == pushed["digest"]
    push(say)
    moved = json.loads(say("alias", "fraud@champion", "2", "--json"))
    assert (moved["before"], moved["number"], moved["release"]) == (1, 2, "")
    actions = [json.loads(line)["action"] for line in say("history", "--json").splitlines()]
    assert actions == ["alias.moved", "version.pushed", "alias.moved", "version.pushed"]
    assert json.loads(say("diff", "fraud/1", "fraud/2", "--json") or "{}") == {}
    assert json.loads(say("sweep", "--json")) == {"removed": []}
    assert json.loads(say("tag", "fraud/1", "a=b", "--json"))["tags"] == {"a": "b"}
    assert json.loads(say("metric", "fraud/1", "auc=0.5", "--json"))["metrics"] == {"auc": 0.5}
    assert json.loads(say("protect", "fraud@old", "--json")) == {
        "model": "fraud",
        "alias": "old",
        "roles": [],
    }
    assert json.loads(say("remove", "fraud/1", "--json")) == {"version": "fraud/1", "done": "removed"}
    made = json.loads(say("token", "add", "ann", "--json"))
    assert json.loads(say("token", "revoke", made["id"], "--json")) == {"id": made["id"], "done": "revoked"}
    hook = json.loads(say("webhook", "add", "http://127.0.0.1:9/", "--json"))
    assert json.loads(say("webhook", "remove", hook["id"], "--json")) == {"id": hook["id"], "done": "removed"}
    error = json.loads(say("show", "nope", "--json", ends=1))
    assert error["error"]["code"] == "not_found"


def test_a_changed_file_ends_with_1(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    push(say)
    file = tmp_path / "registry" / "models" / "fraud" / "1" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"other")
    assert say("verify", "fraud", ends=1).split()[-3:] == ["fraud/1", "model.onnx", "changed"]
    assert json.loads(say("verify", "--json", ends=1))["problem"] == "changed"


def test_a_model_is_loaded_once_before_it_comes_in(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    say("push", say.model, "--name", "fraud")
    signature = json.loads(say("show", "fraud", "--json"))["description"]["signature"]
    assert signature["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    broken = tmp_path / "broken" / "model.onnx"
    broken.parent.mkdir()
    broken.write_bytes((tmp_path / "mlp" / "1" / "model.onnx").read_bytes()[:-200])
    say("push", str(broken), "--name", "fraud", ends=1)
    assert json.loads(say("list", "--json"))["versions"] == 1


def test_who_may_move_an_alias(say, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    push(say)
    assert "salver registry token add" in say("protect", "fraud@champion", "--role", "releaser", ends=1)
    token = say("token", "add", "bob", "--role", "releaser").strip()
    assert "moved by releaser" in say("protect", "fraud@champion", "--role", "releaser")
    assert "is protected: ann has none" in say("alias", "fraud@champion", "1", ends=1)
    monkeypatch.setenv("SALVER_TOKEN", token)
    assert say("alias", "fraud@champion", "1") == "fraud@champion means fraud/1\n"
    assert json.loads(say("history", "--json").splitlines()[0])["actor"] == "bob"
    listed = json.loads(say("token", "list", "--json"))
    assert token not in json.dumps(listed)
    assert "everybody" in say("protect", "fraud@champion")
    assert say("token", "revoke", listed["id"]) == f"{listed['id']} is revoked\n"
    assert "unknown to the registry" in say("list", ends=1)


def test_webhooks_are_added_listed_and_removed(say) -> None:  # type: ignore[no-untyped-def]
    secret = say(
        "webhook", "add", "http://127.0.0.1:9/hook", "--event", "alias.moved", "--model", "fraud"
    ).strip()
    assert secret.startswith("whsec_")
    assert secret not in say("webhook", "list") + say("history")
    assert "alias.gone" in say("webhook", "add", "http://h", "--event", "alias.gone", ends=1)
    id = json.loads(say("webhook", "list", "--json"))["id"]
    assert push(say, "--alias", "champion")  # nobody answers there, which is no fault of the push
    assert say("webhook", "remove", id) == f"{id} is removed\n"
    assert say("webhook", "list") == "there are no webhooks\n"


def test_what_a_webhook_was_not_told_is_seen_and_told_anew(say) -> None:  # type: ignore[no-untyped-def]
    push(say)
    assert say("webhook", "deliveries") == "there are no such deliveries\n"
    say("webhook", "add", "http://127.0.0.1:9/hook", "--event", "alias.moved")
    say("alias", "fraud@champion", "1")
    said = say("webhook", "deliveries", "--state", "failing")
    assert "alias.moved fraud champion" in said
    assert said.rstrip().endswith("Z  Connection refused")
    delivery = json.loads(say("webhook", "deliveries", "--json"))
    assert (delivery["state"], delivery["attempts"], delivery["seq"]) == ("failing", 1, 3)
    assert say("webhook", "redeliver", str(delivery["id"])).endswith("gets alias.moved again\n")
    assert json.loads(say("webhook", "deliveries", "--json"))["attempts"] == 1
    assert "no delivery 99" in say("webhook", "redeliver", "99", ends=1)


def test_a_webhook_that_hangs_has_failed_when_the_command_ends(  # type: ignore[no-untyped-def]
    say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each later command would wait for it again."""
    monkeypatch.setattr("salver.features.registry.command_options._ANSWER_SECONDS", 0.2)
    push(say)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        say("webhook", "add", f"http://127.0.0.1:{listener.getsockname()[1]}/", "--event", "alias.moved")
        say("alias", "fraud@champion", "1")
        delivery = json.loads(say("webhook", "deliveries", "--json"))
    assert (delivery["state"], delivery["attempts"]) == ("failing", 1)
    assert "no answer within 0.2 s" in delivery["error"]


def test_a_push_has_been_made_though_webhooks_cannot_be_told(  # type: ignore[no-untyped-def]
    say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever is told of an error would push once more."""

    async def locked(_: Deliverer) -> int:
        raise LedgerFailed("database is locked")

    monkeypatch.setattr(Deliverer, "once", locked)
    assert push(say).startswith("fraud/1 ")
    assert say("list").split()[-3:] == ["fraud", "1", "1"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["list"], "there is no registry in"),
        (["show", "a b"], "is not allowed as a model name"),
        (["alias", "fraud", "1"], "fraud does not name an alias. Say: NAME@ALIAS VERSION"),
        (["alias", "fraud@x"], "give exactly one change for fraud@x"),
        (
            ["alias", "fraud@x", "1", "--delete"],
            "give exactly one change for fraud@x. Say: NAME@ALIAS VERSION",
        ),
        (["alias", "fraud@x", "--default", "--delete"], "give exactly one change"),
        (["protect", "fraud"], "does not name an alias"),
        (["remove", "fraud"], "does not name a version"),
        (["tag", "fraud", "team"], "is not KEY=VALUE"),
        (["metric", "fraud", "auc=high"], "is not a number"),
        (["push", ".", "--name", "x", "--parent", "cousin:y"], "is not version:"),
        (["push", ".", "--name", "x", "--card", "none.md"], "cannot be read"),
        (["list", "--registry", "mysql://h/d"], "a ledger cannot be 'mysql'"),
        (["list", "--registry", "postgresql://h/d"], "Say --artifacts DIR"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(  # type: ignore[no-untyped-def]
    say, words: list[str], problem: str
) -> None:
    assert problem in say(*words, ends=1)


def test_an_empty_registry_says_so(say, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    say("token", "add", "ann")
    assert say("list") == "the registry is empty\n"
    assert say("history", "fraud") == "nothing was ever changed of fraud\n"
    assert (tmp_path / "registry" / "salver.db").stat().st_mode & 0o077 == 0


def test_under_a_policy_a_move_is_a_proposal_that_is_told(say) -> None:  # type: ignore[no-untyped-def]
    for words in (["--alias", "champion"], []):
        push(say, *words)
    assert main(["rollout", "policy", "fraud", "--usual"]) == 0
    told = json.loads(say("alias", "fraud@champion", "2", "--json"))
    assert told["release"]
    assert told["done"] == f"is proposed to mean fraud/2, release {told['release']}"
    assert json.loads(say("show", "fraud@champion", "--json"))["number"] == 1
    assert "is in the release" in say("remove", "fraud/2", ends=1)
