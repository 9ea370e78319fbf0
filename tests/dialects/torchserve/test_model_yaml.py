"""Server settings of ``model-config.yaml``, and their precedence (TS-Y1 to TS-Y4, TS-C12)."""

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve.model_yaml import ModelYaml, WorkerSettings, parse, workers_of
from salver.words.errors import BadArchive, MissingExtra
from salver.words.handlers import Workers, on_machine

W = "m.mar: model-config.yaml"
NOBODY = WorkerSettings()


def settled(
    text: str, asked: WorkerSettings = NOBODY, told: WorkerSettings = NOBODY, **defaults: int
) -> Workers:
    return workers_of(Workers(**defaults), told, parse(text.encode(), W), asked)


KEYS: list[tuple[str, Workers]] = [
    ("minWorkers: 2\nmaxWorkers: 3", Workers(2, 3)),
    ("batchSize: 8\nmaxBatchDelay: 50", Workers(batch_size=8, max_batch_delay_ms=50)),
    ("responseTimeout: 31\nstartupTimeout: 41", Workers(response_timeout_s=31, startup_timeout_s=41)),
    ("maxRetryTimeoutInSec: 60\nclientTimeoutInMills: 7", Workers(max_retry_s=60, client_timeout_ms=7)),
    ("jobQueueSize: 9", Workers(queue=9)),
    ("jobQueueSize: 0", Workers()),
    ("useJobTicket: true\nuseVenv: true", Workers(needs_ticket=True, has_own_environment=True)),
    ("asyncCommunication: true", Workers(is_async=True)),
    ("sequenceBatching: true\ncontinuousBatching: true", Workers(is_stateful=True, is_continuous=True)),
    ("sequenceMaxIdleMSec: 5\nsequenceTimeoutMSec: 6", Workers(sequence_idle_ms=5, sequence_timeout_ms=6)),
    ("maxNumSequence: 0\nmaxSequenceJobQueueSize: 0", Workers(max_sequences=1, sequence_queue=1)),
    ("maxNumSequence: 4\nmaxSequenceJobQueueSize: 2", Workers(max_sequences=4, sequence_queue=2)),
    ("parallelType: tp\nparallelLevel: 2", Workers(parallel_type="tp", parallel_level=2)),
    ("torchrun:\n  nproc-per-node: 4", Workers(parallel_level=4)),
    ("torchrun:\n  nproc-per-node: 1", Workers()),
    ("", Workers()),
    ("handler:\n  colour: green\nfree: [1, 2]", Workers()),
    ("batchSize:", Workers()),
]


@pytest.mark.clause("TS-Y1", "TS-Y2", "TS-Y3")
@pytest.mark.parametrize(("text", "expected"), KEYS)
def test_every_key_sets_its_field(text: str, expected: Workers) -> None:
    assert settled(text) == expected


@pytest.mark.clause("TS-Y2")
@pytest.mark.parametrize(
    ("text", "gpus", "device", "ids"),
    [
        ("deviceType: GPU\ndeviceIds: [0, 1]", 0, "cpu", ()),
        ("deviceType: GPU\ndeviceIds: [0, 1]", 2, "gpu", (0, 1)),
        ("deviceIds: [1]", 2, "gpu", (1,)),
        ("deviceIds: [1, 2]", 2, "gpu", ()),
        ("deviceType: cpu", 2, "cpu", ()),
        ("deviceType: neuron", 2, "cpu", ()),
        ("", 2, "gpu", ()),
        ("", 0, "cpu", ()),
    ],
)
def test_devices_that_are_not_there_are_not_wanted(
    text: str, gpus: int, device: str, ids: tuple[int, ...]
) -> None:
    assert on_machine(settled(text), gpus) == Workers(device=device, device_ids=ids)


WRONG: list[tuple[str, str, str]] = [
    ("batchSize: many", "batchSize", "a whole number, at least 0"),
    ("minWorkers: 1025", "minWorkers", "a whole number, from 0 to 1024"),
    ("batchSize: 1.5", "batchSize", "a whole number"),
    ("batchSize: true", "batchSize", "a whole number"),
    ("batchSize: -1", "batchSize", "a whole number, at least 0"),
    ("batchSize: 99999999999", "batchSize", "a whole number"),
    ("responseTimeout: 0", "responseTimeout", "a whole number, at least 1"),
    ("useJobTicket: 1", "useJobTicket", "true or false"),
    ("deviceType: [gpu]", "deviceType", "a string"),
    ("parallelType: 3", "parallelType", "a string"),
    ("parallelType: zz", "parallelType", "pp or tp or pptp or custom"),
    ("deviceIds: 0", "deviceIds", "a list of whole numbers"),
    ("deviceIds: [-1]", "deviceIds", "a list of whole numbers"),
    ("torchrun: 4", "torchrun", "must be a mapping"),
    ("torchrun: {nproc-per-node: gpu}", "torchrun.nproc-per-node", "a whole number"),
    ("minWorkers: 2\nmaxWorkers: 1", "maxWorkers", "more than maxWorkers, 1"),
]


@pytest.mark.clause("TS-Y1", "TS-Y2")
@pytest.mark.parametrize(("text", "key", "words"), WRONG)
def test_what_cannot_be_names_file_key_and_value(text: str, key: str, words: str) -> None:
    with pytest.raises(BadArchive) as raised:
        parse(text.encode(), W)
    assert raised.value.field == key
    assert W in raised.value.message
    assert words in raised.value.message


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)
UNREADABLE: list[tuple[str, str]] = [
    ("a: [", "is not valid YAML"),
    ("- a\n- b\n", "is no mapping"),
    ("3: x", "is no mapping"),
    ("text", "is no mapping"),
    ("a: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    ("a: &a [*a]", "an alias refers to its own container"),
    (LAUGHS, "more than"),
    ("[" * 5000, "nested too deep"),
    ("a: " + "x" * (300 << 10), "is larger than"),
    ("a: \0", "is not valid YAML"),
]


@pytest.mark.clause("TS-Y4")
@pytest.mark.parametrize(("text", "words"), UNREADABLE)
def test_files_that_would_harm_or_are_none_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadArchive, match=words):
        parse(text.encode(), W)


@pytest.mark.clause("TS-Y4")
@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(BadArchive):
        assert isinstance(parse(content, W), ModelYaml)


@pytest.mark.clause("TS-Y4")
def test_aliases_and_free_keys_are_fine() -> None:
    said = parse(b"base: &b {x: 1}\nhandler: {<<: *b}\npt2: {compile: {enable: true}}\nbatchSize: 2", W)
    assert said == ModelYaml({"batch_size": 2})


@pytest.mark.clause("TS-C8", "TS-Y2")
def test_keys_without_effect_and_keys_that_nearly_are_the_servers_give_one_notice_each() -> None:
    said = parse(
        b"batch_size: 4\nmaxbatchdelay: 5\ntorchrun: {nnodes: 1}\npippy: {rpc: 1}\n"
        b"deviceType: neuron\nbatches: 1",
        W,
    )
    assert said.notices == (
        "batch_size: left to the handler; the server's key is batchSize",
        "deviceType 'neuron': accepted, no effect here",
        "maxbatchdelay: left to the handler; the server's key is maxBatchDelay",
        "pippy: accepted, no effect here",
        "torchrun: accepted, no effect here",
    )


@pytest.mark.clause("TS-C12")
def test_a_request_goes_before_the_archive_in_batches_only() -> None:
    text = "minWorkers: 1\nmaxWorkers: 2\nbatchSize: 3\nmaxBatchDelay: 7\nresponseTimeout: 31"
    asked = WorkerSettings(2, 2, 2, 9, 12, 13)
    assert settled(text, asked) == Workers(1, 2, 2, 9, 31, 120)


@pytest.mark.clause("TS-C12")
def test_a_file_that_names_no_times_resets_them() -> None:
    assert settled("batchSize: 2", response_timeout_s=77, startup_timeout_s=88, queue=5) == Workers(
        batch_size=2, queue=5
    )
    plain = workers_of(Workers(response_timeout_s=77, startup_timeout_s=88), NOBODY, None, NOBODY)
    assert (plain.response_timeout_s, plain.startup_timeout_s) == (77, 88)


@pytest.mark.clause("TS-C12", "TS-C2")
def test_the_models_setting_goes_before_defaults_and_after_all_others() -> None:
    told = WorkerSettings(1, 2, 2, 11, 55, 56)
    assert workers_of(Workers(), told, None, NOBODY) == Workers(1, 2, 2, 11, 55, 56)
    assert workers_of(Workers(), told, None, WorkerSettings(batch_size=0)).batch_size == 0
    assert settled("batchSize: 4", told=told) == Workers(1, 2, 4, 11, 120, 120)


@pytest.mark.clause("TS-C12", "TS-B10")
def test_a_snapshot_goes_before_the_archives_workers() -> None:
    text = "minWorkers: 1\nmaxWorkers: 2"
    assert settled(text, WorkerSettings(3, 4, is_final=True)) == Workers(3, 4)


@pytest.mark.clause("TS-C12")
def test_workers_count_only_where_the_archive_wants_some() -> None:
    asked = WorkerSettings(least=2, most=2)
    assert settled("minWorkers: 0\nmaxWorkers: 3", asked) == Workers(2, 2)
    assert settled("maxWorkers: 3", asked) == Workers(2, 2)
    assert workers_of(Workers(), NOBODY, None, WorkerSettings(least=3)) == Workers(3, 3)


@pytest.mark.clause("TS-Y1")
def test_without_a_reader_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtra, match="torchserve"):
        parse(b"batchSize: 2", W)
