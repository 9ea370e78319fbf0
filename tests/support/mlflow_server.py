"""A real MLflow server of this machine, with models that MLflow itself has logged.

``make .envs/mlflow-3/requirements.txt`` puts MLflow where it is looked for.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import PATIENCE_S

PLACE = Path(__file__).parents[2] / ".envs" / "mlflow-3"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(PLACE),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes more, which nobody here asks
}
#: Two versions of `lin`, the first one also `champion`; what it is and what is said of it.
LOG = """
import sys
import mlflow, mlflow.onnx, mlflow.sklearn
import numpy as np
from onnx import load
from sklearn.linear_model import LinearRegression

mlflow.set_tracking_uri(sys.argv[1])
x = np.random.default_rng(0).random((20, 3))
model = LinearRegression().fit(x, x.sum(1))
signature = mlflow.models.infer_signature(x, model.predict(x))
common = dict(name="model", registered_model_name="lin", pip_requirements=["numpy"], signature=signature)
with mlflow.start_run():
    mlflow.log_metric("rmse", 0.25)
    mlflow.onnx.log_model(load(sys.argv[2]), **common)
with mlflow.start_run():
    mlflow.sklearn.log_model(model, serialization_format="pickle", **common)
client = mlflow.MlflowClient()
client.set_registered_model_alias("lin", "champion", 1)
client.set_model_version_tag("lin", "1", "team", "risk")
client.update_model_version("lin", "1", "# The first one")
"""


@contextmanager
def an_mlflow(folder: Path) -> Iterator[str]:
    """Its URL; ended with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    where = [
        "--backend-store-uri",
        f"sqlite:///{folder}/m.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *where], stdout=log, stderr=log, env=ENVIRONMENT, cwd=folder, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{url}/health", process, folder / "log")
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def log_models(url: str, onnx: Path) -> None:
    """As somebody does who trains."""
    subprocess.run(
        [sys.executable, "-c", LOG, url, str(onnx)],
        check=True,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=240,
    )


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE_S).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)
