"""TorchServe's log files (TS-B12)."""

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from waiting import auntil

from salver.dialects.torchserve import logs as torchserve_logs
from salver.dialects.torchserve.logs import MODELS, TorchServeLogConfig, TorchServeLogs
from salver.words.errors import InvalidInput
from salver.words.events import Answered

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[TorchServeLogs]:
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    found = TorchServeLogs(TorchServeLogConfig(str(tmp_path / "logs"), str(tmp_path / "metrics")))
    yield found
    found.close()
    logging.getLogger().setLevel(level)


def sizes_of(folder: Path, names: str) -> list[int]:
    return [path.stat().st_size for path in folder.glob(names)]


def lines(tmp_path: Path, name: str) -> list[str]:
    return (tmp_path / name).read_text().splitlines()


async def written(tmp_path: Path, name: str) -> list[str]:
    """Wait until a file has lines, and return them; lines of one moment are written together."""
    return await auntil(lambda: lines(tmp_path, name))


@pytest.mark.clause("TS-B12")
async def test_the_access_log(tmp_path: Path, logs: TorchServeLogs) -> None:
    logs.observe([Answered("127.0.0.1:57540", "POST", "/predictions/m?q=1", "HTTP/1.1", 200, 17.0, 2.7179)])
    logs.observe([Answered("1.2.3.4:5", "gRPC", "org.x/Predict", "HTTP/2.0", 0, 17.0, 0.0)])
    first, second = await written(tmp_path, "logs/access_log.log")
    assert re.fullmatch(
        TIME + r' - /127\.0\.0\.1:57540 "POST /predictions/m\?q=1 HTTP/1\.1" 200 2717', first, re.ASCII
    )
    assert second.endswith(' - /1.2.3.4:5 "gRPC org.x/Predict HTTP/2.0" 0 0')


@pytest.mark.clause("TS-B12")
async def test_nobody_forges_a_line(tmp_path: Path, logs: TorchServeLogs) -> None:
    logs.observe([Answered("c", "GET", "/a\n2026 - forged \x1b[31m", "HTTP/1.1", 200, 17.0, 0.0)])
    (line,) = await written(tmp_path, "logs/access_log.log")
    assert "\x1b" not in line


@pytest.mark.clause("TS-B12", "TS-B14")
async def test_metrics_have_files_of_their_own(tmp_path: Path, logs: TorchServeLogs) -> None:
    logs.metrics(["QueueTime.Milliseconds:0.0|#Level:Host|#hostname:vm,timestamp:17"], False)
    logs.metrics(["PredictionTime.ms:1.0|#|#hostname:vm,timestamp:17"], True)
    (server,) = await written(tmp_path, "metrics/ts_metrics.log")
    assert re.fullmatch(TIME + r" - QueueTime\.Milliseconds:0\.0\|#Level:Host\|.*", server)
    (model,) = await written(tmp_path, "metrics/model_metrics.log")
    assert " - PredictionTime.ms:1.0|" in model


@pytest.mark.clause("TS-B12")
async def test_the_servers_log_and_the_models(tmp_path: Path, logs: TorchServeLogs) -> None:
    logging.getLogger("salver.lifecycle").warning(
        {"event": "model failed", "model": "m", "reason": "no\nthing"}
    )
    logging.getLogger(MODELS).info("said %s", "so")
    server = lines(tmp_path, "logs/ts_log.log")
    pattern = TIME + r" \[WARN \] MainThread salver\.lifecycle - model failed model=m reason=no\\nthing"
    assert re.fullmatch(pattern, server[0])
    assert server[1].endswith("[INFO ] MainThread salver.engine.host - said so")
    assert lines(tmp_path, "logs/model_log.log") == server[1:]


@pytest.mark.clause("TS-B12")
async def test_large_files_are_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchserve_logs, "MAX_BYTES", 300)
    logs = TorchServeLogs(TorchServeLogConfig(str(tmp_path), str(tmp_path)))
    for number in range(100):
        logs.metrics([f"line {number}"], False)
    logs.close()
    sizes = sizes_of(tmp_path, "ts_metrics.log*")
    assert len(sizes) == torchserve_logs.KEPT + 1
    assert max(sizes) <= 300


@pytest.mark.clause("TS-B12")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"access_log\.log cannot be written") as caught:
        TorchServeLogs(TorchServeLogConfig(str(tmp_path / "file")))
    assert "LOG_LOCATION" in caught.value.fix


@pytest.mark.clause("TS-B12")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
async def test_lines_that_cannot_be_written_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "access_log.log").symlink_to("/dev/full")
    logs = TorchServeLogs(TorchServeLogConfig(str(tmp_path), str(tmp_path)))
    logs.observe([Answered("c", "GET", "/", "HTTP/1.1", 200, 17.0, 0.0)])
    await auntil(lambda: "access_log.log are lost: No space left" in caplog.text)
    logs.close()


@pytest.mark.clause("TS-B12")
async def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    logs = TorchServeLogs(TorchServeLogConfig(str(tmp_path), str(tmp_path)), lambda: 0.25)
    logs.metrics(["a"], True)
    logs.close()
    assert re.fullmatch(TIME + " - a\n", (tmp_path / "model_metrics.log").read_text())
    assert ",250 - a" in (tmp_path / "model_metrics.log").read_text()
