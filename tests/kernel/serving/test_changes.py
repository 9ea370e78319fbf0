"""Changes go on to their end, and what nobody waits for is told in the log."""

import asyncio
import logging

import pytest

from salver.kernel.serving.changes import Changes


def changes() -> Changes:
    return Changes("test", logging.getLogger("salver.test"), "it failed: %s")


async def after(gate: asyncio.Event, error: Exception | None = None) -> str:
    await gate.wait()
    if error is not None:
        raise error
    return "done"


async def test_whoever_waits_is_told_and_the_log_is_not(caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()
    gate.set()
    assert await changes().whole(after(gate)) == "done"
    with pytest.raises(ValueError, match="as asked"):
        await changes().whole(after(gate, ValueError("as asked")))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("error", "log"), [(None, ""), (ValueError("as asked"), "it failed: as asked")], ids=["well", "badly"]
)
async def test_it_goes_on_when_the_caller_has_left(
    error: Exception | None, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate, under_way = asyncio.Event(), changes()
    caller = asyncio.create_task(under_way.whole(after(gate, error)))
    await asyncio.sleep(0)
    assert repr(under_way) == "<Changes test, 1 under way>"
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    while "1 under way" in repr(under_way):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert log in caplog.text and bool(caplog.text) == bool(log)
