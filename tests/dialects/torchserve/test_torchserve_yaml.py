"""Files of metrics (TS-C7)."""

from pathlib import Path

import pytest

from salver.dialects.torchserve.metrics_yaml import USUAL, Spec, read
from salver.words.errors import InvalidInput

FILE = """
dimensions:
  - &model_name "ModelName"
  - &level "Level"
  - &hostname "Hostname"
ts_metrics:
  counter:
    - name: Requests2XX
      unit: Count
      dimensions: [*level, *hostname]
model_metrics:
  gauge:
    - {name: HandlerTime, unit: ms, dimensions: [*model_name, *level]}
  histogram:
    - name: Mine
      unit: ms
      dimensions: [*model_name]
"""


def written(folder: Path, text: str) -> str:
    path = folder / "metrics.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.clause("TS-C7")
def test_a_file_is_read(tmp_path: Path) -> None:
    found = read(written(tmp_path, FILE))
    assert found.server == (Spec("Requests2XX", "counter", "Count", ("Level", "Hostname")),)
    assert found.models == (
        Spec("HandlerTime", "gauge", "ms", ("ModelName", "Level", "Hostname")),
        Spec("Mine", "histogram", "ms", ("ModelName", "Hostname")),
    )


@pytest.mark.clause("TS-B13")
def test_without_a_file_there_are_torchserves_names() -> None:
    names = {spec.name: (spec.kind, spec.unit, spec.dimensions) for spec in (*USUAL.server, *USUAL.models)}
    assert names["Requests2XX"] == ("counter", "Count", ("Level", "Hostname"))
    called = ("model_name", "model_version", "hostname")
    assert names["ts_inference_latency_microseconds"] == ("counter", "Microseconds", called)
    assert names["WorkerLoadTime"] == ("gauge", "Milliseconds", ("WorkerName", "Level", "Hostname"))
    assert names["GPUUtilization"] == ("gauge", "Percent", ("Level", "DeviceId", "Hostname"))
    assert names["HandlerTime"] == ("gauge", "ms", ("ModelName", "Level", "Hostname"))
    assert len(names) == 21


@pytest.mark.clause("TS-C7")
@pytest.mark.parametrize(
    "text, why",
    [
        ("[", "is not valid YAML"),
        ("a", "has no keys"),
        ("ts_metrics: [1]", "ts_metrics has other keys than counter, gauge, histogram"),
        ("ts_metrics: {summary: []}", "has other keys"),
        ("ts_metrics: {counter: 1}", "ts_metrics.counter is no list"),
        ("ts_metrics: {counter: [1]}", r"ts_metrics.counter\[0\] is no metric"),
        ("ts_metrics: {counter: [{name: a b}]}", "no valid name"),
        ("model_metrics: {gauge: [{name: a, dimensions: [b c]}]}", "no valid dimensions"),
        ("model_metrics: {gauge: [{name: a, dimensions: [Hostname]}]}", "a dimension twice"),
        ("ts_metrics: {gauge: [{name: a}]}\nmodel_metrics: {gauge: [{name: a}]}", "server and models: a"),
        ("a: !!python/object/apply:os.system ['x']", "is not valid YAML"),
        ("a: " + "[" * 10_000, "is not valid YAML"),
        ("# " + "x" * (1 << 20), "is larger than"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidInput, match=rf"metrics.yaml.*{why}"):
        read(path)


@pytest.mark.clause("TS-C7")
def test_a_missing_file_is_named() -> None:
    with pytest.raises(InvalidInput, match="metrics_config: /nowhere cannot be read"):
        read("/nowhere")
