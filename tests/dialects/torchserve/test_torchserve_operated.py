"""``salver torchserve`` as processes, as its operators see it: start, stop, files, metrics, snapshots."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from archivers import run_archiver
from programs import program
from waiting import PATIENCE_S, until

import salver
from salver.cli import background
from salver.testing.process import free_port

PROGRAM = (sys.executable, "-c", "from salver.cli import main; raise SystemExit(main())", "torchserve")
HANDLER = """
def handle(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Asked", 1)
    print("asked for", len(data))
    return [request["body"].upper() for request in data]
"""


class Deployment:
    """A folder with a model store, and the commands of its operator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
        self.ports = dict(zip(names, (free_port() for _ in names), strict=True))
        source = str(Path(salver.__file__).parents[1])
        self.environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": source}
        (folder / "store").mkdir()
        for name in ("shout", "other"):
            self.archive(name)

    def archive(self, name: str, program: str = HANDLER) -> None:
        (self.folder / f"{name}.py").write_text(program)
        pytest.importorskip("model_archiver", reason="torch-model-archiver is not installed")
        options = ["--model-name", name, "--version", "1.0", "--handler", f"{name}.py"]
        run_archiver("torch-model-archiver", *options, "--export-path", "store", work=self.folder)

    def configure(self, text: str) -> None:
        ports = [f"{name}_address=http://127.0.0.1:{self.ports[name]}" for name in list(self.ports)[:3]]
        ports += [f"{name}_port={self.ports[name]}" for name in list(self.ports)[3:]]
        (self.folder / "config.properties").write_text("\n".join([*ports, "model_store=store", text]))

    def run(self, *words: str) -> tuple[int, str]:
        """Status and output of a command."""
        self.out = self.folder / f"{len(list(self.folder.glob('*.out')))}.out"
        with self.out.open("wb") as out:  # a server in the background keeps it open
            done = subprocess.run(
                [*PROGRAM, *words], cwd=self.folder, env=self.environment, stdout=out, stderr=out, timeout=90
            )
        return done.returncode, self.out.read_text()

    def ask(
        self, port: str, path: str, verb: str = "GET", body: str | None = None, key: str = ""
    ) -> tuple[int, str]:
        headers = {"Content-Type": "text/plain"} | ({"Authorization": f"Bearer {key}"} if key else {})
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        data = None if body is None else body.encode()
        request = urllib.request.Request(url, data, headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until(self, port: str, path: str, status: int = 200, **more: str) -> str:
        """Ask until that is the status."""
        found, text = 0, ""

        def is_so() -> bool:
            nonlocal found, text
            with contextlib.suppress(OSError):
                found, text = self.ask(port, path, **more)
            return found == status

        until(is_so, lambda: (found, text, self.out.read_text()))
        return text


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(tmp_path)
    yield found
    found.run("--stop")


@pytest.mark.clause("TS-K1", "TS-B11")
def test_it_goes_to_the_background_and_is_stopped(deployment: Deployment) -> None:
    deployment.configure("load_models=shout.mar\ndefault_workers_per_model=1")
    assert deployment.run("--start", "--ncs")[0] == 0  # what it logs may stand there already
    deployment.until("inference", "/ping", 400)  # tokens are on
    pid = int((deployment.folder / ".model_server.pid").read_text())
    keys = json.loads((deployment.folder / "key_file.json").read_text())
    key = keys["inference"]["key"]
    path = "/predictions/shout"
    assert deployment.until("inference", path, verb="POST", body="hello", key=key) == "HELLO"
    status, said = deployment.run("--start", "--ncs")
    assert (status, "already running" in said) == (1, True)
    assert deployment.run("--stop") == (0, "TorchServe has stopped.\n")
    assert background.owner_of(pid) == "nobody"
    assert not (deployment.folder / ".model_server.pid").exists()
    assert not (deployment.folder / "key_file.json").exists()
    assert deployment.run("--stop") == (0, "TorchServe is not currently running.\n")
    assert not (deployment.folder / "logs" / "config").exists()


@pytest.mark.clause("TS-B12", "TS-B13", "TS-B14", "TS-A9", "TS-M11")
def test_metrics_and_logs(deployment: Deployment) -> None:
    deployment.configure(
        "load_models=shout.mar\ndefault_workers_per_model=1\nmetrics_mode=prometheus\n"
        "model_metrics_auto_detect=true\ndisable_token_authorization=true\nenable_envvars_config=true"
    )
    deployment.environment |= {"LOG_LOCATION": "seen", "TS_DEFAULT_RESPONSE_TIMEOUT": "66"}
    assert deployment.run("--start", "--ncs")[0] == 0
    assert deployment.until("inference", "/predictions/shout", verb="POST", body="hello") == "HELLO"
    assert deployment.ask("inference", "/predictions/nobody", "POST", "x")[0] == 404
    page = deployment.until("metrics", "/metrics")
    for sample in (
        r'Requests2XX\{Hostname="[^"]+",Level="Host"\} [1-9]',
        r'Requests4XX\{Hostname="[^"]+",Level="Host"\} 1\.0',
        r'ts_inference_requests_total\{hostname="[^"]+",model_name="shout",model_version="default"\} 1\.0',
        r'WorkerLoadTime\{Hostname="[^"]+",Level="Host",WorkerName="W-9000-shout_1\.0"\} [1-9]',
        r'Asked\{Hostname="[^"]+",Level="Model",ModelName="shout"\} 1\.0',
        r'PredictionTime\{Hostname="[^"]+",Level="Model",ModelName="shout"\} ',
        r"salver_requests_total\{",
    ):
        assert re.search(f"^{sample}", page, re.M), f"{sample} is not in\n{page}"
    chosen = deployment.until("metrics", "/metrics/of/all?name[]=QueueTime")
    assert [line.partition("{")[0] for line in chosen.splitlines() if line[0] != "#"] == ["QueueTime"]
    (told,) = json.loads(deployment.until("management", "/models/shout"))
    assert told["responseTimeout"] == 66  # TS-C12
    assert deployment.run("--stop")[0] == 0
    access = (deployment.folder / "seen" / "access_log.log").read_text()
    assert re.search(r' - /127\.0\.0\.1:\d+ "POST /predictions/shout HTTP/1\.1" 200 \d+$', access, re.M)
    assert re.search(r' - /127\.0\.0\.1:\d+ "POST /predictions/nobody HTTP/1\.1" 404 \d+$', access, re.M)
    assert "asked for 1" in (deployment.folder / "seen" / "model_log.log").read_text()
    assert "model ready model=shout" in (deployment.folder / "seen" / "ts_log.log").read_text()


METERED = """
from ts.metrics.metric_type_enum import MetricTypes

class Metered:
    def initialize(self, context):
        get = context.metrics.get_metric
        self.metrics = [get(f"My{kind.value}", kind) for kind in MetricTypes]

    def handle(self, data, context):
        for metric in self.metrics:
            metric.add_or_update(2, ["Model", context.model_name])
        return ["counted"] * len(data)
"""
DECLARED = """
dimensions: [&model ModelName, &level Level]
ts_metrics: {counter: [{name: Requests2XX, unit: Count, dimensions: [*level, Hostname]}]}
model_metrics:
  counter: [{name: Mycounter, unit: count, dimensions: [*level, *model]}]
  gauge: [{name: Mygauge, unit: ms, dimensions: [*level, *model]}]
  histogram: [{name: Myhistogram, unit: ms, dimensions: [*level, *model]}]
"""


@pytest.mark.clause("TS-C7", "TS-A9")
@pytest.mark.parametrize("by", ["file", "environment"])
def test_handlers_find_what_metrics_config_declares(deployment: Deployment, by: str) -> None:
    deployment.archive("metered", METERED)
    (deployment.folder / "my.yaml").write_text(DECLARED)
    said = {"file": "metrics_config=my.yaml", "environment": "enable_envvars_config=true"}[by]
    if by == "environment":
        deployment.environment["TS_METRICS_CONFIG"] = "my.yaml"
    deployment.configure(
        "load_models=metered.mar\ndefault_workers_per_model=1\nmetrics_mode=prometheus\n"
        f"disable_token_authorization=true\n{said}"
    )
    assert deployment.run("--start", "--ncs")[0] == 0
    assert deployment.until("inference", "/predictions/metered", verb="POST", body="x") == "counted"
    page = deployment.until("metrics", "/metrics")
    for sample in ("Mycounter{", "Mygauge{", "Myhistogram_sum{"):
        assert re.search(rf"^{sample}.*ModelName=\"metered\".* 2\.0$", page, re.M), page
    assert deployment.run("--stop")[0] == 0


@pytest.mark.clause("TS-K1")
def test_launchers_find_the_line_that_they_wait_for(deployment: Deployment) -> None:
    deployment.configure("load_models=shout.mar\ndefault_workers_per_model=1")
    command = [*PROGRAM, "--start", "--ncs", "--disable-token-auth"]
    with subprocess.Popen(
        command,
        cwd=deployment.folder,
        env=deployment.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        assert any(b"Model server started." in said for said in process.stdout)
        status, text = deployment.ask("inference", "/predictions/shout", "POST", "hello")
        assert (status, text) == (200, "HELLO")
        assert deployment.run("--stop")[0] == 0


@pytest.mark.clause("TS-B10")
def test_a_snapshot_whose_archive_is_gone_starts_no_server(deployment: Deployment) -> None:
    deployment.configure("load_models=shout.mar,other.mar\ndefault_workers_per_model=1")
    words = ("--start", "--disable-token-auth")
    assert deployment.run(*words, "--ts-config", "config.properties")[0] == 0
    deployment.until("inference", "/ping")
    assert deployment.run("--stop")[0] == 0
    (deployment.folder / "store" / "other.mar").unlink()
    (deployment.folder / "config.properties").unlink()
    status, said = deployment.run(*words, "--foreground")
    assert status == 1 and "Model server started." not in said
    assert "Model archive file for model other, version 1.0 not found in model store" in said


@pytest.mark.clause("TS-B10")
def test_what_is_served_is_found_again(deployment: Deployment) -> None:
    deployment.configure("load_models=shout.mar\ndefault_workers_per_model=1\nenable_model_api=true")
    words = ("--start", "--disable-token-auth")
    assert deployment.run(*words, "--ts-config", "config.properties")[0] == 0
    deployment.until("inference", "/ping")
    asked = "/models?url=other.mar&model_name=kept&initial_workers=1&batch_size=2"
    assert deployment.ask("management", asked, "POST")[0] == 200
    assert deployment.ask("management", "/models/shout?min_worker=2&synchronous=true", "PUT")[0] == 200
    assert deployment.run("--stop")[0] == 0
    kinds = [path.stem.partition("-")[2] for path in sorted((deployment.folder / "logs/config").iterdir())]
    assert (kinds[0], kinds[-1]) == ("startup", "shutdown")
    assert set(kinds[1:-1]) == {"snapshot"}
    (deployment.folder / "config.properties").unlink()
    assert deployment.run(*words)[0] == 0
    assert deployment.until("inference", "/predictions/kept", verb="POST", body="again") == "AGAIN"
    (kept,) = json.loads(deployment.until("management", "/models/kept"))
    assert (kept["batchSize"], kept["modelUrl"]) == (2, "other.mar")
    (shout,) = json.loads(deployment.until("management", "/models/shout"))
    assert shout["minWorkers"] == 2


@pytest.mark.clause("TS-B14")
def test_in_the_mode_log_metrics_are_lines(deployment: Deployment) -> None:
    deployment.configure("load_models=shout.mar\ndefault_workers_per_model=1\nmetric_time_interval=1")
    assert deployment.run("--start", "--ncs", "--dt")[0] == 0
    assert deployment.until("inference", "/predictions/shout", verb="POST", body="hello") == "HELLO"
    assert deployment.ask("metrics", "/metrics") == (200, "")
    assert deployment.run("--stop")[0] == 0
    server = (deployment.folder / "logs" / "ts_metrics.log").read_text()
    for line in (
        r"Requests2XX\.Count:1\.0\|#Level:Host\|#hostname:[^,]+,timestamp:\d+",
        r"ts_inference_requests_total\.Count:1\.0\|#model_name:shout,model_version:default\|#hostname:",
        r"CPUUtilization\.Percent:[0-9.]+\|#Level:Host\|#hostname:",
    ):
        assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - " + line, server, re.M), line
    models = (deployment.folder / "logs" / "model_metrics.log").read_text()
    assert re.search(r" - PredictionTime\.ms:[0-9.]+\|#ModelName:shout,Level:Model\|#hostname:", models)
    assert "Asked" not in models  # it is not in the file


@pytest.mark.clause("TS-C5", "TS-C1", "TS-P1")
def test_ports_may_be_encrypted_or_unix_sockets(deployment: Deployment) -> None:
    openssl = program("openssl")
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=localhost -days 1"
    subprocess.run(
        [openssl, *words.split()], cwd=deployment.folder, check=True, capture_output=True, timeout=60
    )
    port = deployment.ports["management"]
    deployment.configure(
        f"inference_address=unix:{deployment.folder}/i.sock\nmanagement_address=https://127.0.0.1:{port}\n"
        "certificate_file=cert.pem\nprivate_key_file=key.pem\nload_models=shout.mar\ndefault_workers_per_model=1"
    )
    assert deployment.run("--start", "--ncs", "--dt")[0] == 0
    deployment.until("metrics", "/metrics")
    curl = (
        program("curl"),
        "-s",
        "--unix-socket",
        f"{deployment.folder}/i.sock",
        "-H",
        "Content-Type: text/plain",
    )
    until(lambda: _output(*curl, "-d", "hello", "http://x/predictions/shout") == "HELLO")
    url = f"https://localhost:{port}/models"
    assert '"shout"' in _output(program("curl"), "-s", "--cacert", f"{deployment.folder}/cert.pem", url)
    assert deployment.run("--stop")[0] == 0
    access = (deployment.folder / "logs" / "access_log.log").read_text()
    assert '"POST /predictions/shout HTTP/1.1" 200' in access


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, timeout=30, text=True, check=False).stdout
