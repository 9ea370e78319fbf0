"""Models by name and base path in the configuration files of TensorFlow Serving's operators."""

import logging
import shutil
from pathlib import Path

import pytest
from model_folders import recognise, write_files

from salver.backends.protocol import ArtifactKind
from salver.dialects.tensorflow import tf_text
from salver.dialects.tensorflow.batching_parameters import batching_of
from salver.dialects.tensorflow.model_list import check_change, check_labels, named_models
from salver.kernel.lifecycle.policy import choose
from salver.kernel.repository import NamedModel, NamedModelDefaults, Repository, RepositoryConfig
from salver.kernel.repository.named_models import NO_BATCHING, configured
from salver.parts import formats
from salver.stores import FileStore, Store
from salver.words.artifacts import Batching, Instances, LoadOrder, Logging, Manifest, Versions
from salver.words.errors import FailedPrecondition, InvalidInput, Unsupported
from salver.words.messages import ModelId


def places(text: str) -> tuple[NamedModel, ...]:
    return named_models(tf_text.parse(text.encode(), "ModelServerConfig", "f"))


def listed(*configs: str) -> str:
    return "model_config_list {" + "".join(f" config {{ {config} }}" for config in configs) + "}"


A = 'name: "a" base_path: "/m/a" model_platform: "tensorflow"'


@pytest.mark.clause("TF-C1", "TF-C2")
def test_every_key_of_a_model() -> None:
    found = places(
        listed(
            A + " version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 2 }"
            " model_version_policy { all { } } logging_config { }",
            'name: "b" base_path: "s3://bucket/b" model_type: TENSORFLOW',
        )
    )
    assert found == (
        NamedModel(
            "a", "/m/a", Versions(all=True), {"canary": "2", "stable": "1"}, "", "tensorflow", Logging()
        ),
        NamedModel("b", "s3://bucket/b", platform="tensorflow"),
    )


@pytest.mark.clause("TF-C4")
@pytest.mark.parametrize(
    ("said", "logging"),
    [
        ("sampling_config { sampling_rate: 0.5 }", Logging(rate=0.5)),
        (
            "sampling_config { sampling_rate: 1 } log_collector_config { filename_prefix: '/var/log/m' }",
            Logging(rate=1.0, prefix="m"),
        ),
        ("log_collector_config { filename_prefix: '../.. /a b' }", Logging(prefix="a_b")),
        ("log_collector_config { filename_prefix: '/..' }", Logging()),
    ],
)
def test_which_requests_are_written_down(said: str, logging: Logging) -> None:
    assert places(listed(f"{A} logging_config {{ {said} }}"))[0].logging == logging


@pytest.mark.clause("TF-C4")
def test_another_share_is_another_manifest_of_the_same_body() -> None:
    manifest = Manifest(ModelId("a", "1"), Path("/m/a/1"), "onnx", "onnx", fingerprint="print", body="body")

    def seen(logging: Logging | None) -> Manifest:
        (found,) = configured([manifest], NamedModel("a", "/m/a", logging=logging), NamedModelDefaults())
        return found

    assert seen(None).fingerprint == "print"
    half, all_ = seen(Logging(rate=0.5)), seen(Logging(rate=1.0))
    assert (half.config.logging.rate, half.body, all_.body) == (0.5, "body", "body")
    assert len({"print", half.fingerprint, all_.fingerprint}) == 3
    assert seen(Logging(rate=0.5)) == half


@pytest.mark.clause("TF-C4")
@pytest.mark.parametrize("rate", ["-0.1", "1.5", "nan"])
def test_a_share_is_from_0_to_1(rate: str) -> None:
    with pytest.raises(InvalidInput, match="sampling_rate of model a must be from 0 to 1"):
        places(listed(f"{A} logging_config {{ sampling_config {{ sampling_rate: {rate} }} }}"))


@pytest.mark.clause("TF-C3")
@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", None),
        ("model_version_policy { }", Versions()),
        ("model_version_policy { latest { } }", Versions()),
        ("model_version_policy { latest { num_versions: 3 } }", Versions(latest=3)),
        ("model_version_policy { all { } }", Versions(all=True)),
        ("model_version_policy { specific { versions: 5 versions: 42 } }", Versions(specific=("5", "42"))),
        ("model_version_policy { specific { } }", Versions(latest=0)),
    ],
)
def test_version_policies(policy: str, versions: Versions | None) -> None:
    assert places(listed(f"{A} {policy}"))[0].versions == versions


@pytest.mark.clause("TF-C2")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (listed(A, A), "Illegal to list model a multiple times in config list"),
        (
            listed('name: "a" base_path: "m/a" model_platform: "tensorflow"'),
            "Expected model a to have an absolute path or URI; got base_path()=m/a",
        ),
        (listed('name: "a" base_path: "/a"'), "Illegal setting neither ModelServerConfig::model_type"),
        (listed(A + " model_type: TENSORFLOW"), "Illegal setting both ModelServerConfig::model_type"),
        (listed('name: "a" base_path: "/a" model_type: OTHER'), "model_type choice 2 not supported"),
        (listed('base_path: "/a" model_platform: "tensorflow"'), "a model of model_config_list has no name"),
    ],
)
def test_what_cannot_be(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        places(text)
    assert said in str(caught.value)


@pytest.mark.clause("TF-C1")
def test_a_custom_configuration_is_refused() -> None:
    config = tf_text.parse(b"", "ModelServerConfig", "f")
    config.custom_model_config.value = b"x"
    with pytest.raises(Unsupported, match="Missing custom_model_config_loader"):
        named_models(config)


@pytest.mark.clause("TF-L6")
def test_the_platform_of_a_model_does_not_change() -> None:
    mine, other = (NamedModel("a", "/a", platform=platform) for platform in ("tensorflow", "other"))
    check_change([mine], [mine, NamedModel("b", "/b", platform="tensorflow")])
    with pytest.raises(
        InvalidInput, match="For model a platform was tensorflow and new platform requested is"
    ):
        check_change([mine], [other])
    with pytest.raises(InvalidInput, match=r"^Model a requests unsupported platform other"):
        check_change([], [other])


REFUSED = "Request to assign label to version {} of model a, which is not currently available for inference"


@pytest.mark.clause("TF-L7", "TF-F8")
@pytest.mark.parametrize(
    ("labels", "meant", "allows", "refused"),
    [
        ({}, {}, False, ""),
        ({"stable": "1"}, {}, False, ""),
        ({"stable": "2"}, {}, False, "2"),
        ({"stable": "2"}, {}, True, ""),
        ({"stable": "2"}, {"stable": "1"}, True, "2"),
        ({"stable": "2"}, {"stable": "2"}, True, ""),
        ({"stable": "2"}, {"stable": "2"}, False, "2"),
        ({"stable": "1"}, {"stable": "2"}, False, ""),
        ({"stable": "1", "canary": "2"}, {"stable": "0001"}, True, ""),
    ],
)
def test_labels_mean_what_can_answer(
    labels: dict[str, str], meant: dict[str, str], allows: bool, refused: str
) -> None:
    def check() -> None:
        check_labels([NamedModel("a", "/a", labels=labels)], {"a": meant}, ready, allows_unready=allows)

    ready = [ModelId("a", "00000001"), ModelId("b", "2")]
    if not refused:
        check()
        return
    with pytest.raises(FailedPrecondition) as caught:
        check()
    assert REFUSED.format(refused) in str(caught.value)


# -- what a scan makes of them -----------------------------------------------------------------


def repository(named_defaults: NamedModelDefaults | None = None, **config: object) -> Repository:
    rules = RepositoryConfig(**config)  # type: ignore[arg-type]
    named_defaults = named_defaults or NamedModelDefaults()
    return Repository(
        (), formats(recognise, lambda backend, form: backend != "onnx"), rules, named_defaults=named_defaults
    )


def scan(made: Repository, now: float = 0.0) -> dict[str, Manifest]:
    return {str(m.id): m for m in made.scan(now)}


@pytest.mark.clause("TF-L1")
def test_any_format_lies_under_a_base_path_and_other_folders_do_not_count(tmp_path: Path) -> None:
    files = {
        "hp/00000123/saved_model.pb": "x",
        "hp/notes/readme": "x",
        "onnx/1/any.onnx": "ONNX",
        "onnx/2/any.onnx": "ONNX",
        "bare/model.onnx": "ONNX",
    }
    write_files(tmp_path, files)
    made = repository()
    names = {"one": "hp", "two": "onnx", "three": "bare", "gone": "nowhere"}
    made.place([NamedModel(name, str(tmp_path / folder)) for name, folder in names.items()])
    found = scan(made)
    assert set(found) == {"one:00000123", "two:1", "two:2"}
    assert found["one:00000123"].backend == "tensorflow"


@pytest.mark.clause("TF-C3")
def test_policies_and_labels_are_told_from_outside_and_compared_as_numbers(tmp_path: Path) -> None:
    write_files(tmp_path, {f"hp/{v}/saved_model.pb": "x" for v in ("007", "8", "9")})
    made = repository()
    made.place(
        [
            NamedModel(
                "m", str(tmp_path / "hp"), Versions(specific=("7", "9", "11")), {"old": "7", "new": "11"}
            )
        ]
    )
    found = made.scan(0.0)
    assert [m.id.version for m in choose(found)] == ["9", "007"]
    assert all(m.config.labels == {"old": "007", "new": "11"} for m in found)
    made.place([NamedModel("m", str(tmp_path / "hp"))])
    again = made.scan(0.1)
    assert [m.id.version for m in choose(again)] == ["9"], "another policy counts at once"
    assert {m.fingerprint for m in again} == {m.fingerprint for m in found}
    assert again[0].config.labels == {}


def test_a_models_own_configuration_holds_where_nothing_is_said(tmp_path: Path) -> None:
    text = "[versions]\nall = true\n[labels]\nmine = '1'\n[batching]\nmax_rows = 3\n"
    write_files(tmp_path, {"m/1/a.onnx": "ONNX", "m/2/a.onnx": "ONNX", "m/salver.toml": text})
    made = repository(NamedModelDefaults(batching=Batching(max_rows=7), instances=2))
    made.place([NamedModel("m", str(tmp_path / "m"), labels={"theirs": "2"})])
    config = scan(made)["m:2"].config
    assert config.versions.all
    assert config.labels == {"mine": "1", "theirs": "2"}
    assert (config.batching.max_rows, config.instances) == (3, Instances(count=2))


def test_only_harmless_formats_are_loaded_from_a_path_that_a_request_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/model.py": "PY", "b/1/a.onnx": "ONNX"})
    for trusts, refused in ((False, ["a:1"]), (True, [])):
        made = repository(trusts_code=trusts)
        made.place([NamedModel(name, str(tmp_path / name), is_requested=True) for name in "ab"])
        assert [
            id for id, m in scan(made).items() if "in a base path that a request named" in m.problem
        ] == refused
    made = repository()
    made.place([NamedModel("a", str(tmp_path / "a"), is_requested=True)])
    assert scan(made)["a:1"].problem
    made.place([NamedModel("a", str(tmp_path / "a"))])
    assert not scan(made, 0.1)["a:1"].problem, "the operator names it now"


def test_batch_threads_are_no_processes(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/a.onnx": "ONNX", "b/1/saved_model.pb": "x"})
    made = repository(NamedModelDefaults(instances=8))
    made.place([NamedModel("a", str(tmp_path / "a")), NamedModel("b", str(tmp_path / "b"))])
    found = scan(made)
    assert (found["a:1"].config.instances.count, found["b:1"].config.instances.count) == (8, 0)


@pytest.mark.clause("TF-L3")
def test_new_versions_rest_before_they_count_and_a_list_does_not(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/a.onnx": "ONNX", "b/1/a.onnx": "ONNX"})
    made = repository()
    made.place([NamedModel("m", str(tmp_path / "a"))])
    assert set(scan(made)) == {"m:1"}
    write_files(tmp_path, {"a/2/a.onnx": "ONNX"})
    assert set(scan(made, 1.0)) == {"m:1"}
    assert set(scan(made, 2.1)) == {"m:1", "m:2"}
    made.place([NamedModel("m", str(tmp_path / "b")), NamedModel("n", str(tmp_path / "a"))])
    assert set(scan(made, 2.2)) == {"m:1", "n:1", "n:2"}
    made.place([])
    assert scan(made, 2.3) == {}


@pytest.mark.clause("TF-L3")
def test_a_base_path_that_is_not_there_is_told_once_and_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, {"a/1/a.onnx": "ONNX", "empty/notes": "x"})
    made = repository()
    made.place(
        [
            NamedModel("m", str(tmp_path / "a")),
            NamedModel("x", "/nowhere"),
            NamedModel("y", str(tmp_path / "empty")),
        ]
    )
    with caplog.at_level(logging.ERROR):
        assert set(scan(made)) == {"m:1"}
        scan(made, 1.0)
    told = [r.message for r in caplog.records]
    assert len(told) == 2
    assert "Could not find base path /nowhere for servable x" in told[0] + told[1]
    assert "No versions of servable y found under base path" in told[0] + told[1]


def test_a_place_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/a.onnx": "ONNX"})

    def open_store(path: Path | str) -> Store:
        if "://" in str(path):
            raise InvalidInput(f"{path} is no address")
        return FileStore(Path(path))

    made = Repository((), formats(recognise), open_store=open_store)
    made.place([NamedModel("m", str(tmp_path / "a"))])
    with pytest.raises(InvalidInput):
        made.place([NamedModel("m", str(tmp_path / "a")), NamedModel("n", "hdfs://x")])
    assert set(scan(made)) == {"m:1"}


def test_a_model_of_the_paths_with_the_same_name_is_a_clash(tmp_path: Path) -> None:
    write_files(tmp_path, {"all/m/1/a.onnx": "ONNX", "b/1/a.onnx": "ONNX"})
    made = Repository([tmp_path / "all"], formats(recognise))
    made.place([NamedModel("m", str(tmp_path / "b"))])
    assert "is used more than once" in scan(made)["m:1"].problem


@pytest.mark.clause("TF-F18")
def test_the_lite_model_goes_first_where_it_is_preferred(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/saved_model.pb": "x", "m/1/model.tflite": "TFL", "n/1/saved_model.pb": "x"})
    for first, preferred in (("", "savedmodel"), ("model.tflite", "tfl")):
        made = repository(first_filename=first)
        made.place([NamedModel("m", str(tmp_path / "m")), NamedModel("n", str(tmp_path / "n"))])
        found = scan(made)
        assert found["m:1"].format == preferred
        assert found["n:1"].format == "savedmodel"


@pytest.mark.clause("TF-F14")
def test_options_go_to_the_backend_that_they_are_for(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/saved_model.pb": "x", "n/1/a.onnx": "ONNX"})
    made = repository(NamedModelDefaults(options={"tensorflow": {"tags": "serve,tpu"}}))
    made.place([NamedModel("m", str(tmp_path / "m")), NamedModel("n", str(tmp_path / "n"))])
    found = scan(made)
    assert found["m:1"].config.options == {"tags": "serve,tpu"}
    assert found["n:1"].config.options == {}


# -- batching ----------------------------------------------------------------------------------


def parameters(text: str) -> Batching:
    return batching_of(tf_text.parse(text.encode(), "BatchingParameters", "f"))


@pytest.mark.clause("TF-C5")
def test_all_keys_of_batching_parameters() -> None:
    text = """
    max_batch_size { value: 32 } batch_timeout_micros { value: 1500 } max_enqueued_batches { value: 5 }
    num_batch_threads { value: 4 } thread_pool_name { value: 'pool' }
    allowed_batch_sizes: 4 allowed_batch_sizes: 16 pad_variable_length_inputs: true
    enable_large_batch_splitting { value: true } max_execution_batch_size { value: 16 }
    """
    assert parameters(text) == Batching(
        max_rows=16,
        max_delay_ms=1.5,
        max_queue=80,
        max_queue_rows=80,
        max_request_rows=32,
        sizes=(4, 16),
        pad=True,
    )


@pytest.mark.clause("TF-C5")
def test_the_defaults_are_those_of_tensorflow_serving() -> None:
    found = parameters("")
    assert (found.max_rows, found.max_request_rows, found.max_delay_ms) == (1000, 1000, 0)
    assert (found.max_queue_rows, found.sizes, found.pad) == (10_000, (), False)
    assert parameters("max_execution_batch_size { value: 8 }").max_rows == 1000, "it needs splitting"


@pytest.mark.clause("TF-C5")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 1000",
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 4 } allowed_batch_sizes: 8",
            "must be equal to max_execution_batch_size; last entry was 8; expected 4",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [2, 2, 4]",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches must be positive; was 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        (
            "max_batch_size { value: 4 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 5 }",
            "max_execution_batch_size must be less than or equal to max_batch_size; was 5",
        ),
        ("max_batch_size { value: 99999999999 }", "max_batch_size is at most 1048576"),
    ],
)
def test_parameters_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parameters(text)
    assert said in str(caught.value)


@pytest.mark.clause("TF-F9")
def test_a_version_brings_its_own_parameters_or_has_no_batching(tmp_path: Path) -> None:
    own = "batching_params.pbtxt"
    files = {
        "m/1/saved_model.pb": "x",
        f"m/1/{own}": "max_batch_size { value: 10 }",
        "m/2/saved_model.pb": "x",
        "m/3/saved_model.pb": "x",
        f"m/3/{own}": "max_batch_size { value: 0 }",
        "m/3/note": "x",
    }
    write_files(tmp_path, files)
    common = Batching(max_rows=4)
    for has_own, rows in ((True, {"1": 10, "2": 64}), (False, {"1": 4, "2": 4, "3": 4})):
        made = repository(NamedModelDefaults(batching=common, has_own_batching=has_own))
        made.place([NamedModel("m", str(tmp_path / "m"))])
        found = scan(made)
        assert {v: found[f"m:{v}"].config.batching.max_rows for v in rows} == rows
        assert (found["m:2"].config.batching == NO_BATCHING) is has_own
        assert ("max_batch_size must be positive" in found["m:3"].problem) is has_own


def test_an_order_brings_nothing_for_places(tmp_path: Path) -> None:
    write_files(tmp_path, {"m/1/a.onnx": "ONNX"})
    made = repository()
    made.place([NamedModel("m", str(tmp_path / "m"))])
    made.overrides["m"] = made.bring("m", LoadOrder(config='{"max_batch_size": 3}'))
    assert scan(made)["m:1"].config.batching.max_rows == 3


def test_of_an_exact_place_only_its_versions_are_looked_at_and_count_at_once(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        (tmp_path / "m" / version).mkdir(parents=True)
        (tmp_path / "m" / version / "model.onnx").write_text("ONNX")
    seen: list[Path] = []

    def looked(path: Path) -> ArtifactKind | None:
        seen.append(path)
        return ArtifactKind("onnx", "onnx") if path.suffix == ".onnx" else None

    repository = Repository((), formats(looked), RepositoryConfig())
    for versions in (("1",), ("1", "3")):
        seen.clear()
        repository.place([NamedModel("m", str(tmp_path / "m"), Versions(specific=versions), is_exact=True)])
        assert [str(m.id) for m in repository.scan(0.0)] == [f"m:{version}" for version in versions]
        assert not [path for path in seen if "2" in path.relative_to(tmp_path).parts]
    repository.place([NamedModel("m", str(tmp_path / "m"), Versions(specific=("9",)), is_exact=True)])
    assert repository.scan(0.0) == ()


def test_what_an_exact_place_names_stays_though_its_files_are_gone(tmp_path: Path) -> None:
    write_files(tmp_path, {f"m/{version}/a.onnx": "ONNX" for version in (1, 2, 3)})
    made = repository()

    def named(*versions: str) -> list[str]:
        made.place([NamedModel("m", str(tmp_path / "m"), Versions(specific=versions), is_exact=True)])
        return list(scan(made))

    assert named("1", "2") == ["m:1", "m:2"]
    shutil.rmtree(tmp_path / "m" / "1")
    assert named("1", "2") == named("1", "2", "3")[:2] == ["m:1", "m:2"]
    shutil.rmtree(tmp_path / "m")
    assert named("1", "2") == ["m:1", "m:2"]
    assert named("2") == ["m:2"]
    assert named("1", "2") == ["m:2"]
