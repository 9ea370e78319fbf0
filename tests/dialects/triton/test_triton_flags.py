"""Effect of tritonserver's flags under ``--compat triton`` (TR-F1 to TR-F14)."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from salver.cli import main
from salver.cli.compat import server_of
from salver.configuration import ServeConfig
from salver.dialects.openai.model_resolver import OpenAiConfig
from salver.dialects.triton import command as triton
from salver.dialects.triton.flags import IGNORED, OPENAI, OWN, TRITON, USED
from salver.dialects.triton.metrics import TritonMetricsConfig
from salver.dialects.triton.trace_settings import TraceConfig
from salver.kernel.logs import LogConfig
from salver.transport.restrict import Restriction
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput, SalverError

REPOSITORY = "--model-repository=models"


def config(*flags: str) -> ServeConfig:
    return triton.configure([REPOSITORY, *flags]).config


def fronts(*flags: str) -> dict[str, FrontConfig]:
    found = config(*flags)
    return {front.serves: front for front in (found.front, *found.more)}


def test_nothing_but_a_repository_is_tritonserver_on_localhost() -> None:
    start = triton.configure([REPOSITORY])
    found = start.config
    assert found.paths == ("models",)
    assert [(f.serves, f.host, f.port) for f in (found.front, *found.more)] == [
        ("http", "127.0.0.1", 8000),
        ("grpc", "127.0.0.1", 8001),
        ("metrics", "127.0.0.1", 8002),
    ]
    assert (found.server_name, found.control, found.poll_seconds) == ("triton", "none", 15)
    assert found.max_body_mb == 64
    assert found.exits_on_error is True
    assert found.readiness == "whole"
    assert start.notices == ()
    assert "--http-address=0.0.0.0" in start.remark


@pytest.mark.parametrize("form", [["--http-port=9000"], ["--http-port", "9000"]])
def test_a_value_stands_behind_an_equals_sign_or_alone(form: list[str]) -> None:
    assert fronts(*form)["http"].port == 9000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--strict-readiness=false"], False),
        (["--strict-readiness", "0"], False),
        (["--strict-readiness=OFF"], False),
        (["--strict-readiness=True"], True),
        (["--strict-readiness", "on"], True),
        (["--strict-readiness"], True),
        (["--strict-readiness", "--id=x"], True),
        (["--strict-readiness=true", "--strict-readiness=false"], False),
    ],
)
def test_forms_of_true_and_false(words: list[str], expected: bool) -> None:
    assert config(*words).readiness == ("whole" if expected else "settled")


@pytest.mark.clause("TR-F1")
def test_global_flags() -> None:
    found = config("--id=me", "--exit-timeout-secs=7")
    assert found.server_name == "me"
    assert {front.grace_seconds for front in (found.front, *found.more)} == {7}


@pytest.mark.clause("TR-F2")
def test_repository_flags() -> None:
    found = config(
        "--model-store=more", "--model-control-mode=explicit", "--load-model=a", "--load-model", "b"
    )
    assert found.paths == ("models", "more")
    assert (found.control, found.load) == ("explicit", ("a", "b"))
    polling = config("--model-control-mode", "poll", "--repository-poll-secs=3", "--exit-on-error=false")
    assert (polling.control, polling.poll_seconds, polling.exits_on_error) == ("poll", 3, False)


@pytest.mark.clause("TR-F2")
def test_flags_of_how_models_are_read_and_loaded() -> None:
    usual = config()
    assert (usual.lifecycle.parallel_loads, usual.lifecycle.retries) == (4, 0)
    assert usual.repository.default_rows == {"onnx": 4, "tensorflow": 4, "openvino": 4}
    found = config(
        "--model-load-thread-count=2",
        "--model-load-retry-count=3",
        "--model-config-name=big",
        "--model-namespacing=true",
        "--disable-auto-complete-config",
    )
    assert (found.lifecycle.parallel_loads, found.lifecycle.retries) == (2, 3)
    assert (found.repository.config_name, found.repository.has_namespaces) == ("big", True)
    assert (found.repository.required_config, usual.repository.required_config) == ("config.pbtxt", "")
    assert config("--strict-model-config=true").repository.required_config
    assert config("--model-load-thread-count=0").lifecycle.parallel_loads == 1
    assert config("--model-repository=s3://bucket/models").paths == ("models", "s3://bucket/models")


@pytest.mark.clause("TR-F13")
def test_batches_of_models_that_leave_their_size_to_the_backend() -> None:
    key = "default-max-batch-size"
    found = config(f"--backend-config=onnxruntime,{key}=16", f"--backend-config={key}=8")
    assert found.repository.default_rows == {"onnx": 8, "tensorflow": 8, "openvino": 8}
    assert config(f"--backend-config=onnxruntime,{key}=16").repository.default_rows["onnx"] == 16
    start = triton.configure([REPOSITORY, "--backend-config=python,shm-default-byte-size=1048576"])
    assert "python,shm-default-byte-size=1048576 is accepted and has no effect" in start.notices[0]
    for wrong in ("onnxruntime", f"onnxruntime,{key}=x", f"{key}=-1"):
        with pytest.raises(InvalidInput, match="--backend-config"):
            config(f"--backend-config={wrong}")


@pytest.mark.clause("TR-F3")
def test_http_flags() -> None:
    assert "http" not in fronts("--allow-http=false")
    http = fronts("--http-address=0.0.0.0", "--http-port=1", "--reuse-http-port=true")["http"]
    assert (http.host, http.port, http.shares_port) == ("0.0.0.0", 1, True)
    found = config(
        "--http-max-input-size=1000000",
        "--http-header-forward-pattern=^x-",
        "--http-restricted-api=inference,statistics:k=v=w",
        "--http-restricted-api=model-repository:other=x",
    )
    assert round(found.max_body_mb * 2**20) == 1_000_000
    assert found.http.forward == "^x-"
    assert found.http.restrictions == (
        Restriction(("inference", "statistics"), "k", "v=w"),
        Restriction(("model-repository",), "other", "x"),
    )
    assert found.grpc.restrictions == ()


@pytest.mark.clause("TR-F4")
def test_grpc_flags() -> None:
    assert "grpc" not in fronts("--allow-grpc", "false")
    found = config("--grpc-restricted-protocol=health:k=v", "--grpc-header-forward-pattern=a.*")
    assert found.grpc.restrictions == (Restriction(("health",), "k", "v"),)
    assert found.grpc.forward == "a.*"
    files = ["--grpc-server-cert=c", "--grpc-server-key=k", "--grpc-root-cert=r"]
    assert fronts(*files)["grpc"].tls_cert == ""
    secure = fronts("--grpc-use-ssl=true", *files)
    assert (secure["grpc"].tls_cert, secure["grpc"].tls_key, secure["grpc"].tls_client_ca) == ("c", "k", "")
    assert secure["http"].tls_cert == ""
    assert fronts("--grpc-use-ssl-mutual=true", *files)["grpc"].tls_client_ca == "r"
    with pytest.raises(InvalidInput, match="--grpc-server-key"):
        config("--grpc-use-ssl=true", "--grpc-server-cert=c")


@pytest.mark.clause("TR-F5")
@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        ([], {"INFO", "WARNING", "ERROR"}),
        (["--log-verbose=1"], {"DEBUG", "INFO", "WARNING", "ERROR"}),
        (["--log-info=false"], {"WARNING", "ERROR"}),
        (["--log-info=0", "--log-warning=0"], {"ERROR"}),
        (["--log-warning=0", "--log-error=off"], {"INFO"}),
    ],
)
def test_log_flags(flags: list[str], levels: set[str]) -> None:
    assert set(map(logging.getLevelName, config(*flags).table("log", LogConfig).levels())) == levels


@pytest.mark.clause("TR-F5")
def test_the_log_in_a_file() -> None:
    assert config("--log-file=x.log").table("log", LogConfig).file == "x.log"


@pytest.mark.clause("TR-F8")
@pytest.mark.parametrize(
    "flags",
    [
        [
            "level=TIMESTAMPS",
            "rate=10",
            "count=-1",
            "triton,file=t.json",
            "triton,log-frequency=5",
            "mode=triton",
        ],
        ["triton,file=t.json", "level=OFF", "level=MAX", "log-frequency=5", "rate=10", "opentelemetry,url=u"],
    ],
)
def test_trace_settings(flags: list[str]) -> None:
    found = config(*(f"--trace-config={flag}" for flag in flags)).table("trace", TraceConfig)
    assert (found.file, found.level, found.rate, found.count) == ("t.json", "timestamps", 10, -1)
    assert found.log_frequency == 5


@pytest.mark.clause("TR-F14")
def test_the_older_trace_flags() -> None:
    found = config(
        "--trace-file=t", "--trace-level", "TIMESTAMPS", "--trace-rate=3", "--trace-count=-1"
    ).table("trace", TraceConfig)
    assert (found.file, found.level, found.rate, found.count) == ("t", "timestamps", 3, -1)


@pytest.mark.clause("TR-F8")
@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("level=TENSORS", "level=TIMESTAMPS"),
        ("level=LOUD", "'LOUD'"),
        ("rate=often", "whole number"),
        ("colour=red", "no setting 'colour'"),
    ],
)
def test_wrong_trace_settings(setting: str, text: str) -> None:
    with pytest.raises(SalverError, match=text):
        config(f"--trace-config={setting}")


@pytest.mark.clause("TR-F7")
def test_metrics_flags() -> None:
    assert "metrics" not in fronts("--allow-metrics=false")
    assert fronts("--http-address=10.0.0.1")["metrics"].host == "10.0.0.1"
    assert fronts("--http-address=10.0.0.1", "--metrics-address=::1")["metrics"].host == "::1"
    found = config(
        "--metrics-config",
        "summary_latencies=true",
        "--metrics-config=counter_latencies=false",
        "--metrics-config=summary_quantiles=0.5:0.05,0.75:0.01",
    ).table("metrics", TritonMetricsConfig)
    assert (found.counters, found.summaries, found.quantiles) == (False, True, (0.5, 0.75))


@pytest.mark.clause("TR-F13")
def test_every_flag_without_an_effect_is_told_once() -> None:
    values = {"text": "x", "int": "1", "bool": "true", "switch": "true"}
    flags = [f"--{name}={values[kind]}" for name, (kind, _) in IGNORED.items()]
    notices = triton.configure([REPOSITORY, *flags, *flags]).notices
    assert len(notices) == len(IGNORED)
    assert notices[0].startswith(f"--{next(iter(IGNORED))} is accepted and has no effect here: ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--http-prot=1"], "--http-port"),
        (["models"], "unexpected argument 'models'"),
        (["--http-port"], "needs a value"),
        (["--http-port=x"], "whole number"),
        (["--http-port=-1"], "negative"),
        (["--http-port=70000"], "not a port"),
        (["--allow-http=maybe"], "true or false"),
        (["--allow-http=0", "--allow-grpc=0"], "neither HTTP nor gRPC"),
        (["--model-control-mode=always"], "none, poll, explicit"),
        (["--load-model=a"], "--model-control-mode=explicit"),
        (["--http-restricted-api=everything:k=v"], "no group of operations 'everything'"),
        (["--http-restricted-api=inference"], "GROUP"),
        (["--metrics-config=colour=true"], "no setting 'colour'"),
        (["--metrics-config=summary_latencies"], "not a setting"),
        (["--metrics-config=summary_quantiles=2"], "not quantiles"),
        (["--access-log=some"], "off, errors, all"),
    ],
)
def test_a_wrong_line_is_told_with_what_would_be_right(words: list[str], text: str) -> None:
    with pytest.raises(SalverError, match=text):
        config(*words)


def test_no_repository() -> None:
    with pytest.raises(InvalidInput, match="--model-repository=FOLDER"):
        triton.configure(["--http-port=1"])


def test_only_serve_with_compat_takes_them() -> None:
    assert server_of(["serve", "--compat", "triton"]) == "triton"
    assert server_of(["serve", "--model-store=m", "--compat=triton"]) == "triton"
    assert server_of(["serve", "--compat=tensorflow-serving"]) == "tensorflow-serving"
    assert server_of(["serve", "models"]) == ""
    assert server_of(["infer", "--compat=triton"]) == ""
    with pytest.raises(InvalidInput, match="--compat triton or tensorflow-serving or torchserve"):
        server_of(["serve", "--compat=seldon"])


def test_each_flag_is_in_one_table_and_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(TRITON.types) == len(USED) + len(OPENAI) + len(IGNORED) + len(OWN)
    assert main(["serve", "--compat=triton", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{name} " in shown for name in TRITON.types)


@pytest.mark.clause("TR-F12")
def test_resources_that_models_share() -> None:
    given = ["--model-repository=r", "--rate-limit-resource=bus:3", "--rate-limit-resource", "bus:4:1"]
    assert triton.configure(given).config.resources is None
    assert triton.configure([*given, "--rate-limit=execution_count"]).config.resources == {"bus": 4}
    assert triton.configure(["--model-repository=r", "--rate-limit=execution_count"]).config.resources == {}
    for wrong in ("bus", "bus:x", ":3", "bus:1:2:3", "bus:-1"):
        with pytest.raises(InvalidInput, match="option format is"):
            triton.configure(["--model-repository=r", f"--rate-limit-resource={wrong}"])
    with pytest.raises(InvalidInput, match="invalid argument for --rate-limit"):
        triton.configure(["--model-repository=r", "--rate-limit=sometimes"])


def test_an_error_is_one_line_and_an_exit_status(tmp_path: Path) -> None:
    salver = str(Path(sys.executable).with_name("salver"))
    done = subprocess.run(
        [
            salver,
            "serve",
            "--compat",
            "triton",
            "--model-repository",
            str(tmp_path),
            "--model-config-name=a/b",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert "cannot name a configuration" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.clause("TR-V7")
def test_the_command_line_of_the_openai_front_end_opens_its_port_alone() -> None:
    found = fronts("--tokenizer=words")
    assert found.keys() == {"openai"}
    assert (found["openai"].host, found["openai"].port) == ("127.0.0.1", 9000)
    found = fronts("--openai-port=9100", "--host", "0.0.0.0")
    assert (found["openai"].host, found["openai"].port) == ("0.0.0.0", 9100)
    found = fronts("--openai-port=9100", "--enable-kserve-frontends", "--kserve-http-port=8100", "--host=::1")
    assert {kind: (front.host, front.port) for kind, front in found.items()} == {
        "http": ("::1", 8100),
        "grpc": ("::1", 8001),
        "openai": ("::1", 9100),
        "metrics": ("::1", 8002),
    }
    assert fronts("--kserve-grpc-port=8101", "--enable-kserve-frontends")["grpc"].port == 8101


@pytest.mark.clause("TR-V7")
def test_the_openai_port_beside_tritonservers() -> None:
    assert "openai" not in fronts()
    assert fronts("--allow-openai=true", "--tokenizer=t").keys() == {"http", "grpc", "openai", "metrics"}
    assert fronts("--tokenizer=t", "--allow-http=true", "--grpc-port=8101").keys() == {
        "http",
        "grpc",
        "openai",
    }
    assert fronts("--allow-openai=false", "--tokenizer=words").keys() == {"http", "grpc", "metrics"}
    found = fronts("--allow-openai=1", "--cors-origin=http://localhost", "--tls-cert=c", "--tls-key=k")
    assert found["openai"].cors_origins == ("http://localhost",)
    assert (found["openai"].tls_cert, found["openai"].tls_key) == ("c", "k")


@pytest.mark.clause("TR-V7")
def test_how_models_are_spoken_to() -> None:
    assert config("--allow-openai=true").table("openai", OpenAiConfig) == OpenAiConfig()
    assert config(
        "--chat-template=chat.jinja",
        "--tokenizer=words",
        "--tool-call-parser=mistral",
        "--max-tool-call-parse-bytes=5000",
        "--default-max-tokens=32",
        "--lora-separator=_lora_",
    ).table("openai", OpenAiConfig) == OpenAiConfig("chat.jinja", "words", "mistral", 5000, 32, "_lora_")
    assert config("--tritonserver-log-verbose-level=1").table("log", LogConfig).level == "debug"
    notices = triton.configure([REPOSITORY, "--backend=vllm", "--uvicorn-log-level=info"]).notices
    assert len(notices) == 2
    with pytest.raises(InvalidInput, match="One of llama3, mistral"):
        config("--tool-call-parser=hermes")


@pytest.mark.clause("TR-V7")
def test_restricted_operations_of_the_openai_front_end() -> None:
    both = config(
        *("--openai-restricted-api", "inference,model-repository", "key", "secret with spaces"),
        *("--openai-restricted-api", "model-management", "admin", "other"),
        "--http-restricted-api=inference:key=value",
    ).http.restrictions
    assert [(r.groups, r.header, r.value, r.is_openai) for r in both] == [
        (("inference",), "key", "value", False),
        (("inference", "model-repository"), "key", "secret with spaces", True),
        (("model-management",), "admin", "other", True),
    ]
    for words, text in (
        (("everything", "key", "value"), "no group of operations 'everything'"),
        (("inference", "k y", "value"), "is not a restriction"),
        (("inference",), "needs three values"),
    ):
        with pytest.raises(InvalidInput, match=text):
            config("--openai-restricted-api", *words)
