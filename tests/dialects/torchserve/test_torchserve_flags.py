"""The options of ``torchserve`` (TS-K1)."""

import pytest

from salver.dialects.torchserve.flags import Options, parse


@pytest.mark.clause("TS-K1")
def test_nothing_is_a_start_in_the_background() -> None:
    assert parse([]) == parse(["--start"]) == Options()


@pytest.mark.clause("TS-K1")
def test_every_option() -> None:
    words = (
        "--start --ts-config c --model-store m --workflow-store w --models a=b.mar c.mar --log-config l "
        "--cpp-log-config p --foreground --ncs --ppath j --dt --enable-model-api"
    )
    assert parse(words.split()) == Options(
        "start", "c", "m", "w", ("a=b.mar", "c.mar"), "l", "p", "j", True, False, False, True
    )
    longer = words.replace("--ncs", "--no-config-snapshots").replace("--ppath", "--plugins-path")
    assert parse(longer.replace("--dt", "--disable-token-auth").split()) == parse(words.split())
    assert parse(["--model-s", "m", "--fore"]) == Options(model_store="m", is_foreground=True)


@pytest.mark.clause("TS-K1")
@pytest.mark.parametrize("word, verb", [("--stop", "stop"), ("--version", "version"), ("-v", "version")])
def test_verbs(word: str, verb: str) -> None:
    assert parse([word]).verb == verb


@pytest.mark.clause("TS-K1")
@pytest.mark.parametrize("words", ["--start --stop", "--what", "--models", "m"])
def test_a_wrong_command_line_ends_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words.split())
    assert caught.value.code == 2
    assert "usage: salver torchserve" in capsys.readouterr().err


@pytest.mark.clause("TS-C12")
def test_options_that_are_keys() -> None:
    assert Options().settings() == {}
    words = "--models a b=c --model-store m --workflow-store w --dt --enable-model-api"
    assert parse(words.split()).settings() == {
        "model_store": "m",
        "workflow_store": "w",
        "load_models": "a,b=c",
        "enable_model_api": "true",
        "disable_token_authorization": "true",
    }


def test_salvers_own_options() -> None:
    words = "--grace-seconds 3 --log-level debug --state-dir d --torchserve-metrics false --json"
    assert parse(words.split()) == Options(
        metrics="false", grace_seconds=3, log_level="debug", state_dir="d", json=True
    )
