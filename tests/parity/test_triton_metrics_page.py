"""Triton's metrics page, row by row, after requests whose number is known."""

import http.client
import re
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S

from salver.testing.process import TritonProcess


def page(triton: TritonProcess) -> tuple[str, str]:
    """Content type and text."""
    link = http.client.HTTPConnection("127.0.0.1", triton.metrics_port, timeout=PATIENCE_S)
    link.request("GET", "/metrics")
    reply = link.getresponse()
    text = reply.read().decode()
    link.close()
    return reply.getheader("content-type", ""), text


def value(text: str, name: str, **labels: str) -> float:
    """Of the one sample with these labels."""
    wanted = {f'{key}="{label}"' for key, label in labels.items()}
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if (match := re.match(rf"{name}\{{(.*)\}} ", line)) and wanted <= set(match[1].split(","))
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def ask(http: Any, model: str, rows: int | None = None) -> None:
    shape = [4] if rows is None else [rows, 4]
    inputs = []
    for name in ("INPUT0", "INPUT1"):
        inputs.append(triton_http.InferInput(name, shape, "INT32"))
        inputs[-1].set_data_from_numpy(np.ones(shape, np.int32))
    http.infer(model, inputs)


@pytest.fixture(scope="module")
def tagged(triton: TritonProcess, http: Any) -> Any:
    """A model with a tag and a name of its own, asked with 1 and 2 rows."""
    http.load_model("tagged")
    for _ in range(2):
        ask(http, "tagged")
    with pytest.raises(InferenceServerException):
        http.infer("tagged", [])
    yield page(triton)
    http.unload_model("tagged")


@pytest.mark.clause("TR-R16")
def test_the_page_is_on_its_own_port(triton: TritonProcess, tagged: Any) -> None:
    kind, text = tagged
    assert kind.startswith("text/plain")
    assert triton.get("/metrics")[0] == 404
    for family in set(re.findall(r"^(nv_\w+)\{", text, re.M)):
        assert f"# TYPE {family.replace('_us_sum', '_us').replace('_us_count', '_us')} " in text


@pytest.mark.clause("TR-M1")
def test_counts(tagged: Any) -> None:
    _, text = tagged
    assert value(text, "nv_inference_request_success", model="tagged", version="1") == 2
    assert value(text, "nv_inference_count", model="tagged") == 2
    assert value(text, "nv_inference_exec_count", model="tagged") == 2
    assert value(text, "nv_inference_pending_request_count", model="tagged") == 0
    for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
        assert value(text, "nv_inference_request_failure", model="tagged", reason=reason) >= 0


@pytest.mark.clause("TR-M2", "TR-M4")
def test_latencies(tagged: Any) -> None:
    _, text = tagged
    for part in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        assert value(text, f"nv_inference_{part}_duration_us", model="tagged") >= 0
        assert value(text, f"nv_inference_{part}_summary_us_count", model="tagged") == 2
        assert value(text, f"nv_inference_{part}_summary_us", model="tagged", quantile="0.99") >= 0


@pytest.mark.clause("TR-M6")
def test_the_host(tagged: Any) -> None:
    _, text = tagged
    for name in ("nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes"):
        assert re.search(rf"^{name}(\{{\}})? ", text, re.M), name
    assert value(text, "nv_model_load_duration_secs", model="tagged") >= 0


@pytest.mark.clause("TR-M7")
def test_there_is_no_gpu(tagged: Any) -> None:
    assert "nv_gpu_" not in tagged[1]


@pytest.mark.clause("TR-M8", "TR-C12")
def test_tags_are_labels(tagged: Any) -> None:
    _, text = tagged
    assert value(text, "nv_inference_count", model="tagged", _team="blue") == 2
