"""Metrics and log files for operators of TorchServe, from start to end (TS-B12, TS-B13)."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from waiting import auntil

from salver.dialects.torchserve.logs import TorchServeLogConfig
from salver.dialects.torchserve.metrics import TorchServeMetricsConfig
from salver.dialects.torchserve.view import TorchServeView, TorchServeViewConfig
from salver.words.errors import MissingExtra
from salver.words.events import Answered
from salver.words.messages import ModelId

ANSWERED = Answered("127.0.0.1:5", "GET", "/ping", "HTTP/1.1", 200, 17.0, 0.1)


def config(folder: Path, machine_s: float = 0.001) -> TorchServeViewConfig:
    metrics = TorchServeMetricsConfig("log", machine_s=machine_s)
    return TorchServeViewConfig(metrics, TorchServeLogConfig(str(folder), str(folder)))


@pytest.mark.clause("TS-B12", "TS-B13")
async def test_lines_of_calls_models_and_the_machine(tmp_path: Path) -> None:
    looks: list[int] = []

    def read() -> Mapping[str, float]:
        looks.append(1)
        return {"CPUUtilization": 5.0}

    view = TorchServeView(config(tmp_path), read)
    view.start()
    for observer in view.observers:
        observer.observe([ANSWERED])
    view.add_lines(
        ModelId("m", "1"), 9000, ["PredictionTime.ms:1|#ModelName:m,Level:Model|#type:GAUGE|#hostname:h,1"]
    )
    await auntil(lambda: len(looks) >= 3)
    view.close()
    assert "GET /ping" in (tmp_path / "access_log.log").read_text()
    metrics = (tmp_path / "ts_metrics.log").read_text()
    assert "Requests2XX.Count:1.0|" in metrics
    assert "CPUUtilization.Percent:5.0|" in metrics
    assert "PredictionTime.ms:1.0|" in (tmp_path / "model_metrics.log").read_text()


@pytest.mark.clause("TS-C7")
async def test_without_psutil_there_are_no_metrics_of_the_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> Mapping[str, float]:
        raise MissingExtra("torchserve", "torchserve", "psutil")

    view = TorchServeView(config(tmp_path), read)
    view.start()
    await auntil(lambda: "no metrics of the machine" in caplog.text)
    view.close()


@pytest.mark.clause("TS-C7")
async def test_system_metrics_may_be_off(tmp_path: Path) -> None:
    view = TorchServeView(config(tmp_path, 0), lambda: pytest.fail("it looks"))
    view.start()
    await asyncio.sleep(0.01)
    view.close()


def test_each_part_may_be_off() -> None:
    view = TorchServeView(TorchServeViewConfig(None, None))
    assert view.observers == []
    view.add_lines(ModelId("m", "1"), 9000, ["x"])
    view.close()
