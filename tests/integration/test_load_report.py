"""Answers that tell a load balancer how full a model is (TR-R33)."""

import http.client
import json
from collections.abc import Iterator

import pytest
from waiting import PATIENCE_S
from zoo import write_mlp

from salver.testing.process import ServerProcess

MODEL = """
import time
import numpy as np
class Model:
    def step(self, slots, tokens):
        time.sleep(0.02)
        return np.eye(256, dtype="f4")[np.where(tokens == 122, 97, tokens + 1) % 256]
    def release(self, slot):
        pass
"""
ASK = json.dumps({"text_input": "salv", "max_tokens": 2}).encode()
LONG = json.dumps({"text_input": "salv", "max_tokens": 400}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("load")
    (folder / "models" / "slow" / "1").mkdir(parents=True)
    (folder / "models" / "slow" / "1" / "model.py").write_text(MODEL)
    settings = '[steps]\nvocabulary = "bytes"\nmax_sequences = 4\nmax_context = 1000\n'
    (folder / "models" / "slow" / "salver.toml").write_text(settings)
    write_mlp(folder / "models" / "mlp", 1)
    with ServerProcess([folder / "models"], folder / "log", ["--state-dir="]) as server:
        yield server.wait_ready()


def told(server: ServerProcess, operation: str, form: str | None, model: str = "slow") -> str | None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    headers = {"endpoint-load-metrics-format": form} if form is not None else {}
    connection.request("POST", f"/v2/models/{model}/{operation}", ASK, headers)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.getheader("endpoint-load-metrics")


@pytest.mark.clause("TR-R33")
@pytest.mark.parametrize("operation", ["generate", "generate_stream"])
def test_both_forms(server: ServerProcess, operation: str) -> None:
    text = told(server, operation, "text")
    assert text is not None
    assert text.startswith("TEXT named_metrics.kv_cache_utilization=0.")
    assert text.endswith(", named_metrics.max_token_capacity=4000")
    named = told(server, operation, "json")
    assert named is not None
    assert json.loads(named.removeprefix("JSON "))["named_metrics"]["max_token_capacity"] == 4000


@pytest.mark.clause("TR-R33")
def test_it_tells_of_others(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    connection.request("POST", "/v2/models/slow/generate_stream", LONG)
    with connection.getresponse() as reply:
        reply.readline()  # it is under way
        named = told(server, "generate_stream", "json")
        assert named is not None
        assert json.loads(named.removeprefix("JSON "))["named_metrics"]["kv_cache_utilization"] >= 0.25
    connection.close()


@pytest.mark.clause("TR-R33")
@pytest.mark.parametrize(
    ("form", "model"), [(None, "slow"), ("xml", "slow"), ("text", "mlp"), ("text", "none")]
)
def test_nothing_to_tell(server: ServerProcess, form: str | None, model: str) -> None:
    assert told(server, "generate", form, model) is None
