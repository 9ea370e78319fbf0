"""Effect of tensorflow_model_server's flags under ``--compat tensorflow-serving`` (TF-F1 to TF-F22)."""

import stat
from pathlib import Path

import pytest

from salver.cli import main
from salver.configuration import ServeConfig
from salver.dialects.tensorflow import command as tensorflow
from salver.dialects.tensorflow.config import TensorFlowConfig
from salver.dialects.tensorflow.flags import IGNORED, OWN, TENSORFLOW, USED
from salver.dialects.tensorflow.rules import TfsRules
from salver.features.twins import TwinsConfig
from salver.kernel.logs import LogConfig
from salver.kernel.repository import NamedModel
from salver.kernel.repository.named_models import NO_BATCHING
from salver.transport.server import FrontConfig
from salver.words.artifacts import Batching, Versions
from salver.words.errors import InvalidInput, SalverError, Unsupported

MODEL = ("--model_name=m", "--model_base_path=/models/m")
NOWHERE: dict[str, str] = {}


def config(*flags: str) -> ServeConfig:
    return tensorflow.configure([*MODEL, *flags], NOWHERE).config


def served_as(config: ServeConfig) -> TensorFlowConfig:
    return config.table("tensorflow", TensorFlowConfig)


def prefers(*flags: str) -> str:
    return config(*flags).table("twins", TwinsConfig).prefer


def fronts(*flags: str) -> dict[str, FrontConfig]:
    found = config(*flags)
    return {front.path or front.serves: front for front in (found.front, *found.more)}


def written(folder: Path, text: str) -> str:
    path = folder / "file"
    path.write_text(text)
    return str(path)


def test_nothing_but_a_model_is_the_container_on_localhost() -> None:
    start = tensorflow.configure(MODEL, NOWHERE)
    found = start.config
    assert [(f.serves, f.host, f.port) for f in (found.front, *found.more)] == [
        ("grpc", "127.0.0.1", 8500),
        ("all", "127.0.0.1", 8501),
    ]
    assert served_as(found).served.places == (NamedModel("m", "/models/m", platform="tensorflow"),)
    assert (found.control, found.poll_seconds) == ("poll", 1)
    assert found.named_defaults.batching == NO_BATCHING
    assert found.waits_for_models
    assert start.notices == ()
    assert "--host=0.0.0.0" in start.remark


@pytest.mark.clause("TF-F1", "TF-F3")
def test_ports() -> None:
    found = fronts("--port=9000", "--rest_api_port", "9001", "--host=0.0.0.0")
    assert (found["grpc"].port, found["all"].port, found["all"].host) == (9000, 9001, "0.0.0.0")
    assert set(fronts("--port=0")) == {"all"}
    assert set(fronts("--rest_api_port=0")) == {"grpc"}
    with pytest.raises(InvalidInput, match=r"At least one of server_options.grpc_port"):
        config("--port=0", "--rest_api_port=0")
    with pytest.raises(InvalidInput, match="must differ"):
        config("--port=8501")
    with pytest.raises(InvalidInput, match="not a port"):
        config("--port=70000")


@pytest.mark.clause("TF-F2")
def test_a_unix_socket() -> None:
    found = fronts("--port=0", "--rest_api_port=0", "--grpc_socket_path=/run/m.sock")
    assert found["/run/m.sock"].serves == "grpc"


@pytest.mark.clause("TF-F19", "TF-F21")
def test_what_calls_get() -> None:
    assert served_as(config()).rules == TfsRules(timeout_s=30.0, tells_no_more=True)
    flags = ("--enable_serialization_as_tensor_content", "--enable_signature_method_name_check=true")
    rules = served_as(config(*flags)).rules
    assert (rules.answers_as_content, rules.checks_method_names, rules.timeout_s) == (True, True, 30.0)


@pytest.mark.clause("TF-F3", "TF-R24", "TF-R25")
def test_what_calls_over_rest_get() -> None:
    rules = served_as(config("--rest_api_timeout_in_ms=1500", "--rest_api_enable_cors_support")).rules
    assert rules == TfsRules(timeout_s=1.5, allows_cors=True, tells_no_more=True)
    assert served_as(config("--rest_api_timeout_in_ms=0")).rules.timeout_s == 0


@pytest.mark.clause("TF-F4")
def test_a_model_by_name_and_base_path(tmp_path: Path) -> None:
    assert served_as(tensorflow.configure(["--model_base_path=/m"], NOWHERE).config).served.places == (
        NamedModel("default", "/m", platform="tensorflow"),
    )
    with pytest.raises(
        InvalidInput, match=r"Both server_options.model_base_path and server_options.model_config_file"
    ):
        tensorflow.configure(["--model_name=m"], NOWHERE)
    places = served_as(tensorflow.configure(["--model_base_path=gs://b/m"], NOWHERE).config).served.places
    assert places == (NamedModel("default", "gs://b/m", platform="tensorflow"),)
    relative = served_as(tensorflow.configure(["--model_base_path=here"], NOWHERE).config).served.places
    assert relative == (NamedModel("default", str(Path("here").absolute()), platform="tensorflow"),)


@pytest.mark.clause("TF-F22")
def test_the_environment_of_the_container() -> None:
    def place(**environment: str) -> tuple[NamedModel, ...] | None:
        return served_as(tensorflow.configure([], environment).config).served.places

    assert place(MODEL_NAME="m") == (NamedModel("m", "/models/m", platform="tensorflow"),)
    assert place(MODEL_BASE_PATH="/data/") == (NamedModel("model", "/data/model", platform="tensorflow"),)
    remote = NamedModel("m", "s3://b/m", platform="tensorflow")
    assert place(MODEL_NAME="m", MODEL_BASE_PATH="s3://b") == (remote,)
    found = served_as(tensorflow.configure(MODEL, {"MODEL_NAME": "other"}).config).served.places
    assert found == (NamedModel("m", "/models/m", platform="tensorflow"),)


LIST = 'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" %s } }'


@pytest.mark.clause("TF-F5")
def test_a_list_of_models(tmp_path: Path) -> None:
    file = written(tmp_path, LIST % "model_version_policy { all { } }")
    start = tensorflow.configure(
        [f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=7", "--model_name=x"], NOWHERE
    )
    served = served_as(start.config).served
    assert served.places == (NamedModel("a", "/a", Versions(all=True), platform="tensorflow"),)
    assert (served.file, served.file_poll_seconds) == (file, 7)
    assert start.notices == ("--model_name is ignored, since --model_config_file names the models",)
    with pytest.raises(InvalidInput, match="cannot be read"):
        config("--model_config_file=/nowhere")
    with pytest.raises(InvalidInput, match=r"Error parsing text-format tensorflow.serving.ModelServerConfig"):
        config(f"--model_config_file={written(tmp_path, 'models')}")


def test_a_flag_for_a_file_that_names_none_says_nothing(tmp_path: Path) -> None:
    flags = ["--model_config_file=", "--platform_config_file=", "--enable_batching"]
    start = tensorflow.configure([*MODEL, *flags], NOWHERE)
    assert start.notices == ()
    assert start.config == config("--enable_batching")
    file = written(tmp_path, "model_config_list { }")
    start = tensorflow.configure([f"--model_config_file={file}"], NOWHERE)
    assert (served_as(start.config).served.places, start.notices) == ((), (f"{file} names no models",))


@pytest.mark.clause("TF-C4")
def test_keys_of_logging_without_an_effect_are_told(tmp_path: Path) -> None:
    sampling = "sampling_rate: 1 per_task_sampling_configs { dc: 'a' } attributes: 1"
    text = f"logging_config {{ sampling_config {{ {sampling} }} custom_logging_config {{ }} }}"
    file = written(tmp_path, LIST % text)
    start = tensorflow.configure([f"--model_config_file={file}"], NOWHERE)
    keys = (
        "custom_logging_config",
        "sampling_config.attributes",
        "sampling_config.per_task_sampling_configs",
    )
    assert start.notices == tuple(
        f"{file}: logging_config.{key} is accepted and has no effect here" for key in keys
    )


@pytest.mark.clause("TF-C1", "TF-C5")
def test_what_cannot_be_is_told_with_the_name_of_its_file(tmp_path: Path) -> None:
    file = written(tmp_path, LIST.replace('"/a"', '"a"') % "")
    with pytest.raises(InvalidInput) as caught:
        config(f"--model_config_file={file}")
    said = "Expected model a to have an absolute path or URI; got base_path()=a"
    assert str(caught.value) == f"{file}: {said}"
    file = written(tmp_path, "max_batch_size { value: 0 }")
    with pytest.raises(InvalidInput) as caught:
        config("--enable_batching", f"--batching_parameters_file={file}")
    assert str(caught.value) == f"{file}: max_batch_size must be positive; was 0"


@pytest.mark.clause("TF-F6")
def test_how_often_base_paths_are_looked_at() -> None:
    found = config("--file_system_poll_wait_seconds=5")
    assert (found.control, found.poll_seconds) == ("poll", 5)
    assert config("--file_system_poll_wait_seconds=0.5").poll_seconds == 0.5
    assert config("--file_system_poll_wait_seconds=0").control == "none"


@pytest.mark.clause("TF-F7")
def test_loads() -> None:
    found = config().lifecycle
    assert (found.parallel_loads, found.retries, found.backoff_s, found.backoff_factor) == (4, 5, 60, 1)
    found = config(
        "--num_load_threads=2", "--max_num_load_retries=0", "--load_retry_interval_micros=500000"
    ).lifecycle
    assert (found.parallel_loads, found.retries, found.backoff_s) == (2, 0, 0.5)


@pytest.mark.clause("TF-F8")
def test_labels_of_versions_that_are_not_up() -> None:
    assert not served_as(config()).served.allows_unready_labels
    assert served_as(
        config("--allow_version_labels_for_unavailable_models=true")
    ).served.allows_unready_labels


@pytest.mark.clause("TF-F9")
def test_batching(tmp_path: Path) -> None:
    assert config("--enable_batching").named_defaults.batching == Batching(
        max_rows=1000, max_queue=10_000, max_queue_rows=10_000, max_request_rows=1000
    )
    text = "max_batch_size { value: 8 } num_batch_threads { value: 3 } thread_pool_name { value: 'pool' }"
    file = written(tmp_path, text)
    found = config("--enable_batching=true", f"--batching_parameters_file={file}")
    assert found.named_defaults.batching is not None
    assert (found.named_defaults.batching.max_rows, found.named_defaults.instances) == (8, 3)
    assert served_as(found).metrics.thread_pool_name == "pool"
    assert served_as(found).metrics.has_batches
    assert not served_as(config()).metrics.has_batches
    with pytest.raises(
        InvalidInput, match=r"batching_parameters_file is set without setting server_options.enable_b"
    ):
        config(f"--batching_parameters_file={file}")
    own = config("--enable_batching", "--enable_per_model_batching_parameters=true").named_defaults
    assert own.has_own_batching
    assert not config("--enable_per_model_batching_parameters").named_defaults.has_own_batching
    with pytest.raises(InvalidInput, match="Last entry in allowed_batch_sizes must match max_batch_size"):
        config(
            "--enable_batching", f"--batching_parameters_file={written(tmp_path, 'allowed_batch_sizes: 4')}"
        )


@pytest.mark.clause("TF-F10")
def test_warm_up() -> None:
    assert config().named_defaults.replays == 1
    assert config("--num_request_iterations_for_warmup=3").named_defaults.replays == 3
    assert config("--num_request_iterations_for_warmup=0").named_defaults.replays == 1
    assert (
        config("--enable_model_warmup=false", "--num_request_iterations_for_warmup=3").named_defaults.replays
        == 0
    )


@pytest.mark.clause("TF-F11", "TF-C6")
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prometheus_config { enable: true path: '/mine' }", "/mine"),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ("prometheus_config { path: '/mine' }", ""),
        ("", ""),
    ],
)
def test_the_metrics_page(text: str, path: str, tmp_path: Path) -> None:
    assert served_as(config(f"--monitoring_config_file={written(tmp_path, text)}")).metrics_path == path
    assert served_as(config()).metrics_path == ""


@pytest.mark.clause("TF-C6")
@pytest.mark.parametrize("path", ["mine", "/a b", "/a?b", "/a%2f"])
def test_a_path_that_is_none(path: str, tmp_path: Path) -> None:
    text = f"prometheus_config {{ enable: true path: '{path}' }}"
    with pytest.raises(InvalidInput, match="is not a path"):
        config(f"--monitoring_config_file={written(tmp_path, text)}")


@pytest.mark.clause("TF-F12", "TF-C7")
def test_certificates_stand_in_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "server_key: 'KEY' server_cert: 'CERT\\n' custom_ca: 'CA' client_verify: true")
    found = fronts(f"--ssl_config_file={file}", "--tls_cert=c", "--tls_key=k")
    grpc = found["grpc"]
    assert [Path(p).read_text() for p in (grpc.tls_cert, grpc.tls_key, grpc.tls_client_ca)] == [
        "CERT\n",
        "KEY",
        "CA",
    ]
    assert stat.S_IMODE(Path(grpc.tls_key).parent.stat().st_mode) == 0o700
    assert (found["all"].tls_cert, found["all"].tls_key, found["all"].tls_client_ca) == ("c", "k", "")
    unverified = written(tmp_path, "server_key: 'KEY' server_cert: 'CERT' custom_ca: 'CA'")
    assert fronts(f"--ssl_config_file={unverified}")["grpc"].tls_client_ca == ""
    for text in ("", "server_key: 'KEY'", "server_key: 'K' server_cert: 'C' client_verify: true"):
        with pytest.raises(InvalidInput, match="needs"):
            config(f"--ssl_config_file={written(tmp_path, text)}")
    with pytest.raises(InvalidInput, match="need each other"):
        config("--tls_cert=c")


PLATFORM = """platform_configs { key: "%s" value { source_adapter_config {
    [type.googleapis.com/tensorflow.serving.%s] { %s } } } }"""


@pytest.mark.clause("TF-F13", "TF-C8", "TF-C9")
def test_a_platform_configuration(tmp_path: Path) -> None:
    bundle = """legacy_config { batching_parameters { max_batch_size { value: 6 } } saved_model_tags: "a"
        saved_model_tags: "b" enable_model_warmup: true prefer_tflite_model: true
        model_warmup_options { num_request_iterations { value: 4 } model_version: 3 } session_target: "x"
        session_config { intra_op_parallelism_threads: 2 inter_op_parallelism_threads: 3
            placement_period: 1 } }"""
    file = written(tmp_path, PLATFORM % ("tensorflow", "SavedModelBundleSourceAdapterConfig", bundle))
    start = tensorflow.configure([*MODEL, f"--platform_config_file={file}", "--enable_batching"], NOWHERE)
    found = start.config
    assert found.named_defaults.batching is not None
    assert (found.named_defaults.batching.max_rows, found.named_defaults.replays) == (6, 4)
    assert found.named_defaults.options == {
        "tensorflow": {"intra_op_threads": "2", "inter_op_threads": "3", "tags": "a,b"}
    }
    assert found.repository.first_filename == "model.tflite"
    assert start.notices == (
        f"{file}: session_target is accepted and has no effect here",
        f"{file}: session_config.placement_period is accepted and has no effect here",
        f"{file}: model_warmup_options.model_version is accepted and has no effect here",
        "--enable_batching is ignored, since --platform_config_file configures batching",
    )
    older = PLATFORM % ("tensorflow", "SessionBundleSourceAdapterConfig", "config { }")
    assert config(f"--platform_config_file={written(tmp_path, older)}").named_defaults.replays == 0
    with pytest.raises(InvalidInput, match='there is one platform here, "tensorflow", and not mine'):
        wrong = PLATFORM % ("mine", "SessionBundleSourceAdapterConfig", "")
        config(f"--platform_config_file={written(tmp_path, wrong)}")
    with pytest.raises(Unsupported, match="is not known here"):
        wrong = PLATFORM % ("tensorflow", "SSLConfig", "")
        config(f"--platform_config_file={written(tmp_path, wrong)}")


@pytest.mark.clause("TF-C10")
def test_the_configuration_of_another_runtime(tmp_path: Path) -> None:
    text = PLATFORM % (
        "tensorflow",
        "TfrtSavedModelSourceAdapterConfig",
        "saved_model_config { enable_paging: true }",
    )
    file = written(tmp_path, text)
    start = tensorflow.configure([*MODEL, f"--platform_config_file={file}"], NOWHERE)
    assert start.notices == (f"{file}: TfrtSavedModelSourceAdapterConfig is accepted and has no effect here",)
    assert start.config == config()
    bundle = PLATFORM % ("tensorflow", "SavedModelBundleSourceAdapterConfig", "legacy_config { }")
    file = written(tmp_path, f"# not TfrtSavedModelSourceAdapterConfig\n{bundle}")
    assert tensorflow.configure([*MODEL, f"--platform_config_file={file}"], NOWHERE).notices == ()


@pytest.mark.clause("TF-F14", "TF-F16")
def test_sessions() -> None:
    assert config().named_defaults.options == {}
    both = config("--tensorflow_session_parallelism=4").named_defaults.options["tensorflow"]
    assert both == {"intra_op_threads": "4", "inter_op_threads": "4"}
    each = config("--tensorflow_intra_op_parallelism=2", "--tensorflow_inter_op_parallelism=1")
    assert each.named_defaults.options["tensorflow"] == {"intra_op_threads": "2", "inter_op_threads": "1"}
    assert config("--saved_model_tags=serve,tpu").named_defaults.options["tensorflow"] == {
        "tags": "serve,tpu"
    }


@pytest.mark.clause("TF-F18")
def test_lite_models() -> None:
    assert config("--prefer_tflite_model=true").repository.first_filename == "model.tflite"
    assert config().repository.first_filename == ""


@pytest.mark.clause("TF-F15", "TF-F17", "TF-F20")
@pytest.mark.parametrize("name", IGNORED)
def test_flags_without_an_effect_are_told(name: str) -> None:
    value = "1" if IGNORED[name][0] == "int" else "true"
    start = tensorflow.configure([*MODEL, f"--{name}={value}"], NOWHERE)
    assert start.notices == (f"--{name} is accepted and has no effect here: {IGNORED[name][1]}",)
    assert start.config == config()


@pytest.mark.clause("TF-F21")
def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--compat=tensorflow-serving", "--version"]) == 0
    assert "TensorFlow ModelServer" in capsys.readouterr().out


@pytest.mark.clause("TF-O1")
def test_the_level_of_the_log() -> None:
    def level(*flags: str, **environment: str) -> str:
        return tensorflow.configure([*MODEL, *flags], environment).config.table("log", LogConfig).level

    assert [level(TF_CPP_MIN_LOG_LEVEL=n) for n in "0123"] == ["info", "warning", "error", "error"]
    assert level("--log_level=debug", TF_CPP_MIN_LOG_LEVEL="2") == "debug"
    with pytest.raises(InvalidInput, match="is not known"):
        level("--log_level=loud")
    with pytest.raises(InvalidInput, match="One of off, errors, all"):
        level("--access_log=some")
    assert config("--access_log=all").table("log", LogConfig).access_log == "all"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "--model_basepath=/m",
            "has no flag --model_basepath that Salver knows. Did you mean --model_base_path",
        ),
        ("--grpc-port=1", "Did you mean --"),
        ("models", "Models are named by --model_base_path or --model_config_file"),
        ("--port=x", "must be a whole number"),
        ("--port=-1", "must not be negative"),
        ("--enable_batching=maybe", "must be true or false"),
        ("--file_system_poll_wait_seconds=-1", "must be a number of seconds such as 10 or 0.5, not '-1'"),
        ("--zzzz", "tensorflow-serving --help lists the flags"),
    ],
)
def test_a_wrong_line_is_told_with_what_would_be_right(word: str, said: str) -> None:
    with pytest.raises(SalverError) as caught:
        config(word)
    assert said in str(caught.value)


def test_each_flag_is_in_one_table_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(TENSORFLOW.types) == len(USED) + len(IGNORED) + len(OWN)
    assert main(["serve", "--compat=tensorflow-serving", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{name} " in shown for name in TENSORFLOW.types)


def test_the_page_has_every_flag() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "from-tensorflow-serving.md").read_text()
    assert [name for name in TENSORFLOW.types if f"`{name}`" not in page] == []


def test_own_flags() -> None:
    found = config(
        "--trust_pickle",
        "--max_body_mb=3",
        "--grace_seconds=2",
        "--state_dir=/s",
        "--prefer=onnx",
        "--tensorflow_metrics=false",
    )
    assert (prefers("--prefer=onnx"), prefers(), prefers("--prefer=tensorflow")) == (
        "onnx",
        *["tensorflow"] * 2,
    )
    with pytest.raises(SalverError, match="--prefer=tflite is unknown"):
        config("--prefer=tflite")
    assert (found.trust_pickle, found.max_body_mb, found.state_dir) == (True, 3, "/s")
    assert {front.grace_seconds for front in (found.front, *found.more)} == {2}
    assert served_as(found).metrics.requests == "none"
    assert tensorflow.configure([*MODEL, "--json"], NOWHERE).json
