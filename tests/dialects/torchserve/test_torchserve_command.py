"""``salver torchserve``: what options, files and environment become (TS-C1 to TS-C12, TS-K1, TS-P1)."""

import os
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from programs import program

from salver.cli import background, main
from salver.configuration import ServeConfig, Startup
from salver.dialects.torchserve import command as torchserve
from salver.dialects.torchserve.config import TorchServeConfig
from salver.dialects.torchserve.flags import parse
from salver.dialects.torchserve.logs import TorchServeLogConfig
from salver.dialects.torchserve.metrics import TorchServeMetricsConfig
from salver.dialects.torchserve.metrics_yaml import USUAL
from salver.dialects.torchserve.registering import StartupModel
from salver.dialects.torchserve.rules import SEQUENCE_HEADERS, TokenRules, TorchServeRules
from salver.dialects.torchserve.snapshots import SnapshotConfig
from salver.transport.server import FrontConfig
from salver.words.errors import InvalidInput

NOWHERE: Mapping[str, str] = {}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def start(text: str = "", *words: str, environment: Mapping[str, str] = NOWHERE) -> Startup:
    Path("config.properties").write_text(f"model_store=store\n{text}")
    return torchserve.configure(parse(["--ncs", *words]), environment)


def config(text: str = "", *words: str, **environment: str) -> ServeConfig:
    return start(text, *words, environment=environment).config


def served_as(config: ServeConfig) -> TorchServeConfig:
    return config.table("torchserve", TorchServeConfig)


def fronts(text: str = "", **more: Any) -> dict[str, FrontConfig]:
    found = config(text, **more)
    return {front.serves: front for front in (found.front, *found.more)}


def rules(text: str = "", *words: str) -> TorchServeRules:
    return served_as(config(text, *words)).rules


def metrics(text: str = "", *words: str) -> TorchServeMetricsConfig | None:
    view = served_as(config(text, *words)).view
    assert view is not None
    return view.metrics


@pytest.mark.clause("TS-C1", "TS-P1")
def test_the_ports_of_torchserve() -> None:
    found = start()
    ports = [(f.serves, f.host, f.port) for f in (found.config.front, *found.config.more)]
    assert ports == [
        ("torchserve-inference", "127.0.0.1", 8080),
        ("torchserve-management", "127.0.0.1", 8081),
        ("torchserve-metrics", "127.0.0.1", 8082),
        ("torchserve-grpc-inference", "127.0.0.1", 7070),
        ("torchserve-grpc-management", "127.0.0.1", 7071),
    ]
    assert "0.0.0.0" in found.remark
    assert found.notices == ()


@pytest.mark.clause("TS-P1")
def test_one_address_is_one_listener() -> None:
    same = "inference_address=http://0.0.0.0:8085\nmanagement_address=http://0.0.0.0:8085\n"
    assert set(fronts(same)) == {
        "torchserve-all",
        "torchserve-metrics",
        "torchserve-grpc-inference",
        "torchserve-grpc-management",
    }
    assert "torchserve-metrics" not in fronts(f"{same}metrics_address=http://0.0.0.0:8085")
    management = fronts("metrics_address=http://127.0.0.1:8081")
    assert management["torchserve-management-metrics"].port == 8081
    assert start(same).remark == ""


@pytest.mark.clause("TS-C1")
def test_a_unix_socket_and_grpc_elsewhere() -> None:
    text = "inference_address=unix:/tmp/i.sock\ngrpc_inference_address=0.0.0.0\ngrpc_inference_port=9"
    found = fronts(text)
    assert found["torchserve-inference"].path == "/tmp/i.sock"
    grpc = found["torchserve-grpc-inference"]
    assert (grpc.host, grpc.port) == ("0.0.0.0", 9)


@pytest.mark.clause("TS-C7")
def test_without_the_metrics_api_there_is_no_such_port() -> None:
    assert "torchserve-metrics" not in fronts("enable_metrics_api=false")


@pytest.mark.clause("TS-C5")
def test_encrypted_ports_have_pem_files(folder: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (folder / name).write_text("")
    files = "certificate_file=c.pem\nprivate_key_file=k.pem\n"
    found = fronts(f"inference_address=https://127.0.0.1:8443\nenable_grpc_ssl=true\n{files}")
    for kind in ("torchserve-inference", "torchserve-grpc-inference", "torchserve-grpc-management"):
        assert (found[kind].tls_cert, found[kind].tls_key) == ("c.pem", "k.pem")
    assert found["torchserve-management"].tls_cert == ""
    assert fronts(files)["torchserve-inference"].tls_cert == ""
    with pytest.raises(InvalidInput, match="needs certificate_file and private_key_file, or keystore"):
        config("inference_address=https://127.0.0.1:8443")
    with pytest.raises(InvalidInput, match=r"certificate_file: there is no file x\.pem"):
        config("enable_grpc_ssl=true\ncertificate_file=x.pem\nprivate_key_file=k.pem")


@pytest.mark.clause("TS-C5")
def test_a_key_store_encrypts(folder: Path) -> None:
    pytest.importorskip("cryptography")
    openssl = program("openssl")
    new = "req -x509 -newkey rsa:2048 -nodes -keyout k -out c -subj /CN=localhost -days 1"
    export = "pkcs12 -export -inkey k -in c -out s.p12 -passout pass:secret"
    for words in (new, export):
        subprocess.run([openssl, *words.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    text = "inference_address=https://127.0.0.1:8443\nkeystore=s.p12\nkeystore_pass=secret"
    front = fronts(text)["torchserve-inference"]
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(front.tls_cert, front.tls_key)


@pytest.mark.clause("TS-B11", "TS-C5")
def test_tokens_are_asked_for_unless_somebody_says_otherwise() -> None:
    assert rules().tokens == TokenRules("key_file.json", 60)
    assert rules("token_expiration_min=5").tokens == TokenRules("key_file.json", 5)
    assert rules("disable_token_authorization=true").tokens is None
    assert rules("", "--disable-token-auth").tokens is None


@pytest.mark.clause("TS-M1")
def test_the_model_api_is_off_unless_somebody_wants_it() -> None:
    for found, is_on in (
        (config(), False),
        (config("enable_model_api=true"), True),
        (config("", "--enable-model-api"), True),
    ):
        assert served_as(found).rules.may_change is served_as(found).handlers.is_open is is_on


@pytest.mark.clause("TS-C4", "TS-C6", "TS-C10", "TS-C11")
def test_what_callers_may_and_get() -> None:
    found = rules()
    assert (found.max_request, found.max_response) == (6553500, 6553500)
    assert found.sequence_headers == SEQUENCE_HEADERS
    assert not found.speaks_oip
    found = rules(
        "max_request_size=1024\nmax_response_size=2048\ncors_allowed_origin=http://a\n"
        "cors_allowed_methods=GET, PUT\ncors_allowed_headers=X-A\nts_header_key_sequence_id=i\n"
        "ts_header_key_sequence_start=s\nts_header_key_sequence_end=e\nts_open_inference_protocol=true\n"
        "metrics_mode=prometheus"
    )
    assert (found.max_request, found.max_response) == (1024, 2048)
    assert (found.cors_origin, found.cors_methods, found.cors_headers) == ("http://a", "GET, PUT", "X-A")
    assert found.sequence_headers == ("i", "s", "e")
    assert found.speaks_oip
    assert found.shows_metrics


@pytest.mark.clause("TS-C3")
@pytest.mark.parametrize(("there", "most", "used"), [(0, "4", 0), (4, "", 4), (4, "2", 2), (4, "0", 0)])
def test_gpus_are_used_up_to_a_number(
    monkeypatch: pytest.MonkeyPatch, there: int, most: str, used: int
) -> None:
    monkeypatch.setattr("salver.dialects.torchserve.command.count_gpus", lambda: there)
    found = config(f"number_of_gpu={most}" if most else "")
    assert served_as(found).handlers.gpus_used == used
    assert served_as(found).handlers.workers_at_start == (used or len(os.sched_getaffinity(0)))


@pytest.mark.clause("TS-C2", "TS-C3")
def test_how_models_are_served() -> None:
    found = served_as(config()).handlers
    assert (found.archive_store.store, found.workers) == ("store", 0)
    assert found.workers_at_start == len(os.sched_getaffinity(0))
    assert (found.options, found.settings, found.at_start, found.loads_all) == ({}, {}, (), False)
    found = served_as(
        config(
            "default_workers_per_model=3\ndefault_response_timeout=7\ndefault_startup_timeout=8\n"
            "unregister_model_timeout=9\njob_queue_size=5\ndefault_service_handler=h.py:f\nservice_envelope=json\n"
            "install_py_dep_per_model=true\ndecode_input_request=false\nlimit_max_image_pixels=false\n"
            'allowed_urls=https://a/.*,file://b/.*\nmodels={"m": {"1.0": {"minWorkers": 2}}}'
        )
    ).handlers
    assert (found.workers, found.workers_at_start, found.queue) == (3, 3, 5)
    assert (found.response_timeout_s, found.startup_timeout_s, found.unregister_timeout_s) == (7, 8, 9)
    assert (found.default_handler, found.installs_requirements) == ("h.py:f", True)
    assert found.options == {"envelope": "json", "decode": "false", "limit_max_image_pixels": "false"}
    assert found.archive_store.allowed_urls == ("https://a/.*", "file://b/.*")
    assert found.settings["m"]["1.0"].workers.least == 2
    assert served_as(config("debug=true\ndefault_workers_per_model=3")).handlers.workers_at_start == 1


@pytest.mark.clause("TS-C3")
def test_workers_do_not_see_what_is_hidden() -> None:
    assert served_as(config("blacklist_env_vars=AWS_.*")).hides == "AWS_.*"


@pytest.mark.clause("TS-C3")
def test_workers_have_numbers() -> None:
    assert served_as(config()).first_worker == 9000
    assert served_as(config("initial_worker_port=9100")).first_worker == 9100


@pytest.mark.clause("TS-C2")
@pytest.mark.parametrize(
    "said, models",
    [
        ("", ()),
        ("a.mar, n=b.mar ,,", (StartupModel("a.mar", "", "a"), StartupModel("b.mar", "n", "b"))),
        ("n=http://h/c.mar", (StartupModel("http://h/c.mar", "n", "c"),)),
    ],
)
def test_models_of_the_start(said: str, models: tuple[StartupModel, ...]) -> None:
    assert served_as(config(f"load_models={said}")).handlers.at_start == models


@pytest.mark.clause("TS-C2", "TS-K1")
def test_models_of_the_command_line_go_before_the_files() -> None:
    assert served_as(config("load_models=a.mar", "--models", "n=b.mar", "c.mar")).handlers.at_start == (
        StartupModel("b.mar", "n", "b"),
        StartupModel("c.mar", "", "c"),
    )
    for said in ("all", "ALL"):
        assert served_as(config("load_models=a.mar", "--models", said)).handlers.loads_all


@pytest.mark.clause("TS-C2")
def test_a_model_store_has_to_be_there() -> None:
    with pytest.raises(InvalidInput, match="Missing mandatory parameter --model-store"):
        torchserve.configure(parse(["--ncs"]), NOWHERE)
    with pytest.raises(InvalidInput, match="--model-store directory not found: nowhere"):
        config("", "--model-store", "nowhere")
    with pytest.raises(InvalidInput, match="--workflow-store directory not found: nowhere"):
        config("workflow_store=nowhere")


SNAPSHOT = (
    'model_snapshot={"name": "startup.cfg", "modelCount": 1, "models": {"m": {"1.0": '
    '{"defaultVersion": true, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 5}}}}\n'
)


@pytest.mark.clause("TS-B10")
def test_models_of_a_snapshot_go_before_load_models() -> None:
    (found,) = served_as(config(f"{SNAPSHOT}load_models=other.mar")).handlers.at_start
    assert (found.url, found.name) == ("m.mar", "m")
    assert found.setting is not None
    assert found.setting.is_default
    assert (found.setting.workers.least, found.setting.workers.most) == (1, 5)


@pytest.mark.clause("TS-B10")
def test_the_last_snapshot_is_the_configuration_where_none_is_named(folder: Path) -> None:
    kept = folder / "logs" / "config"
    kept.mkdir(parents=True)
    text = f"model_store=store\n{SNAPSHOT}job_queue_size=7\nversion=0.12.0\ntsConfigFile=x\n"
    (kept / "20261126105224252-shutdown.cfg").write_text(text)
    found = torchserve.configure(parse([]), NOWHERE)
    assert found.notices == ()
    assert [each.name for each in served_as(found.config).handlers.at_start] == ["m"]
    assert served_as(found.config).handlers.queue == 7
    assert served_as(found.config).snapshots is not None
    assert served_as(found.config).snapshots.settings["job_queue_size"] == "7"
    assert "model_snapshot" not in served_as(found.config).snapshots.settings
    (folder / "named").write_text("model_store=store")
    assert (
        served_as(torchserve.configure(parse(["--ts-config", "named"]), NOWHERE).config).handlers.queue == 100
    )
    with pytest.raises(InvalidInput, match="Missing mandatory"):
        torchserve.configure(parse(["--ncs"]), NOWHERE)


@pytest.mark.clause("TS-B10")
def test_snapshots_and_logs_are_where_the_environment_says() -> None:
    Path("config.properties").write_text("model_store=store")
    environment = {"LOG_LOCATION": "here", "METRICS_LOCATION": "there"}
    found = torchserve.configure(parse([]), environment).config
    assert served_as(found).snapshots == SnapshotConfig("here/config", {"model_store": "store"})
    assert served_as(found).view is not None
    assert served_as(found).view.logs == TorchServeLogConfig("here", "there")
    assert served_as(config()).snapshots is None


@pytest.mark.clause("TS-C7", "TS-B14")
def test_metrics(folder: Path) -> None:
    assert metrics() == TorchServeMetricsConfig("log", USUAL, False, 60)
    (folder / "m.yaml").write_text(
        "ts_metrics: {counter: [{name: Requests2XX, dimensions: [Level, Hostname]}]}"
    )
    found = metrics(
        "metrics_mode=PROMETHEUS\nmetrics_config=m.yaml\nmetric_time_interval=3\nmodel_metrics_auto_detect=true"
    )
    assert found is not None
    assert (found.mode, found.detects, found.machine_s) == ("prometheus", True, 3)
    assert [spec.name for spec in found.metrics.server] == ["Requests2XX"]
    options = served_as(config("metrics_config=m.yaml")).handlers.options
    assert options["metrics_config"] == str(folder / "m.yaml")  # workers have a folder of their own
    assert "metrics_config" not in served_as(config("")).handlers.options
    found = metrics("disable_system_metrics=true")
    assert found is not None
    assert found.machine_s == 0


def test_the_family_may_be_off() -> None:
    assert metrics("", "--torchserve-metrics", "false") is None


@pytest.mark.clause("TS-K1")
def test_options_without_effect_have_a_line_each() -> None:
    words = ("--log-config", "l.xml", "--cpp-log-config", "c", "--ppath", "p")
    assert [notice.partition(" ")[0] for notice in start("", *words).notices] == [
        "--log-config",
        "--cpp-log-config",
        "--plugins-path",
    ]


@pytest.mark.clause("TS-K1")
def test_version_and_stop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["torchserve", "--version"]) == 0
    assert main(["serve", "--compat", "torchserve", "-v"]) == 0
    assert capsys.readouterr().out.count("TorchServe Version is 0.12.0, as Salver") == 2
    assert main(["torchserve", "--stop"]) == 0
    assert "TorchServe is not currently running." in capsys.readouterr().out


@pytest.mark.clause("TS-K1")
def test_a_mistake_is_told_before_it_goes_to_the_background(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "launch", lambda words: pytest.fail("it was started"))
    assert main(["torchserve", "--start"]) == 1
    assert "Missing mandatory parameter --model-store" in capsys.readouterr().err


@pytest.mark.clause("TS-K1")
def test_it_is_started_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "running", lambda: 1)
    assert main(["torchserve", "--start", "--model-store", "store"]) == 1
    assert "already running" in capsys.readouterr().out


@pytest.mark.clause("TS-K1")
def test_words_of_the_command_line_reach_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(background, "launch", lambda words: told.append(list(words)))
    words = ["--start", "--ncs", "--model-store", "store"]
    assert main(["torchserve", *words]) == 0
    assert main(["serve", "--compat", "torchserve", *words]) == 0
    assert told == [words, words]


KSERVE = """
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:8082
grpc_inference_port=7070
grpc_management_port=7071
enable_metrics_api=true
metrics_format=prometheus
number_of_netty_threads=4
job_queue_size=10
enable_envvars_config=true
install_py_dep_per_model=true
model_snapshot={"name":"startup.cfg","modelCount":1,"models":{"mnist":{"1.0":{"defaultVersion":true,\\
  "marName":"mnist.mar","minWorkers":1,"maxWorkers":5,"batchSize":1,"maxBatchDelay":10,"responseTimeout":120}}}}
"""


@pytest.mark.clause("TS-C2", "TS-C12")
def test_the_file_that_kserve_documents() -> None:
    found = start(KSERVE, environment={"TS_SERVICE_ENVELOPE": "kserve"})
    assert [notice.split()[1] for notice in found.notices] == ["metrics_format", "number_of_netty_threads"]
    (mnist,) = served_as(found.config).handlers.at_start
    assert (mnist.url, mnist.name) == ("mnist.mar", "mnist")
    assert served_as(found.config).handlers.options == {"envelope": "kserve"}
    assert found.config.front.serves == "torchserve-all"
