"""Background tasks end and are logged as they should be; ticks and retries follow a clock of the test."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from salver.kernel.supervise import Backoff, Faults, Supervisor, every, retry
from salver.words.errors import NotReady

LOG = logging.getLogger("salver.test")


class Clock:
    """Time that moves when somebody sleeps."""

    def __init__(self, until: float) -> None:
        self.now = 0.0
        self._until = until

    async def sleep(self, seconds: float) -> None:
        if self.now + seconds > self._until:
            await asyncio.Event().wait()
        self.now += seconds
        await asyncio.sleep(0)


async def after(gate: asyncio.Event, error: Exception | None = None) -> str:
    await gate.wait()
    if error is not None:
        raise error
    return "done"


@pytest.mark.parametrize(
    ("error", "level", "text"),
    [(NotReady("gone"), "WARNING", "it failed: gone"), (ValueError("odd"), "ERROR", "it failed")],
    ids=["known", "unknown"],
)
async def test_the_error_that_ends_a_task_is_logged_once(
    error: Exception, level: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, gate = Supervisor(LOG, "it failed"), asyncio.Event()
    supervisor.start("work", after(gate, error))
    assert repr(supervisor) == "<Supervisor of work>"
    gate.set()
    await supervisor.join()
    await asyncio.sleep(0)
    assert [(record.levelname, record.message) for record in caplog.records] == [(level, text)]
    assert repr(supervisor) == "<Supervisor of nothing>"


async def test_closing_ends_all_tasks_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor(LOG, "it failed")
    tasks = [supervisor.start("work", after(asyncio.Event())) for _ in range(3)]
    await supervisor.close()
    assert all(task.cancelled() for task in tasks)
    await supervisor.close()
    assert caplog.text == ""


async def test_one_of_a_name_runs_at_a_time() -> None:
    supervisor, gate, runs = Supervisor(LOG, "it failed"), asyncio.Event(), 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        await gate.wait()

    for _ in range(2):
        supervisor.start_unless_running("work", work)
        await asyncio.sleep(0)
    assert runs == 1
    gate.set()
    await supervisor.join()
    supervisor.start_unless_running("work", work)
    await supervisor.join()
    assert runs == 2


async def test_a_caller_who_waits_gets_the_result_and_the_log_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor, gate = Supervisor(LOG, "it failed"), asyncio.Event()
    gate.set()
    assert await supervisor.finish("change", after(gate)) == "done"
    with pytest.raises(NotReady, match="as asked"):
        await supervisor.finish("change", after(gate, NotReady("as asked")))
    assert caplog.text == ""


@pytest.mark.parametrize("error", [None, NotReady("as asked")], ids=["well", "badly"])
async def test_work_goes_on_when_its_caller_has_left(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, gate = Supervisor(LOG, "it failed"), asyncio.Event()
    caller = asyncio.create_task(supervisor.finish("change", after(gate, error)))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await supervisor.join()
    await asyncio.sleep(0)
    assert [record.message for record in caplog.records] == (["it failed: as asked"] if error else [])


async def ticked(
    seconds: float | Callable[[], float], tick: Callable[[], Awaitable[object]], until: float
) -> None:
    """All ticks up to a time, and that the next one is waited for."""
    clock = Clock(until)
    ticking = asyncio.create_task(every(seconds, tick, Faults(LOG, "nothing moves", "it moves"), clock.sleep))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not ticking.done()
    ticking.cancel()


async def test_ticks_come_after_each_pause_whatever_they_raise(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ticks = iter([None, NotReady("away"), NotReady("away"), NotReady("gone"), ValueError("odd"), None, None])

    async def tick() -> None:
        if (error := next(ticks)) is not None:
            raise error

    await ticked(2.0, tick, 14.5)
    assert list(ticks) == []
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "nothing moves: away"),
        ("ERROR", "nothing moves: gone"),
        ("ERROR", "nothing moves"),
        ("INFO", "it moves"),
    ]


async def test_a_pause_may_be_another_each_time() -> None:
    pauses, count = iter([1.0, 5.0, 1.0, 99.0]), 0

    async def tick() -> None:
        nonlocal count
        count += 1

    await ticked(lambda: next(pauses), tick, 10.0)
    assert count == 3


async def test_retries_pause_longer_each_time_until_one_succeeds() -> None:
    clock, rule, errors = (
        Clock(99.0),
        Backoff(first_s=1.0, most_s=3.0),
        iter([OSError(), OSError(), OSError()]),
    )

    async def call() -> str:
        for error in errors:
            raise error
        return "done"

    assert await retry(call, lambda _, failures: rule.delay(failures), clock.sleep) == "done"
    assert clock.now == 1 + 2 + 3


async def test_no_retry_where_there_is_no_pause() -> None:
    failed = []

    async def call() -> None:
        failed.append("once")
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await retry(call, lambda _, failures: None if failures == 2 else 0.0)
    assert len(failed) == 2
