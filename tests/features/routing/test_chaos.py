"""Three real instances behind a server, of which one or all fail: what do callers notice?"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import pytest
from callers import Callers
from faulty_instances import (
    FAULTS,
    LETTERS,
    NAME,
    OUTAGES,
    STREAM_BODY,
    STREAM_FAULTS,
    STREAM_PATH,
    STREAMED,
    Cluster,
)
from soaking import size
from waiting import auntil

from salver.client.events import EventStream
from salver.client.http import Http


async def until_asked(cluster: Cluster) -> None:
    """Wait until the first instance gets requests; one that was slow before is tried after half a minute."""
    before = (await cluster.view()).instances[0].answered

    async def is_asked() -> bool:
        return (await cluster.view()).instances[0].answered > before

    await auntil(is_asked, cluster.front.output)


async def until_noticed(cluster: Cluster, fault: str) -> None:
    """Wait until the server in front has seen that something is wrong with the first instance."""
    before = (await cluster.view()).instances[0].failed

    async def is_noticed() -> bool:
        first, *others = (await cluster.view()).instances
        if fault == "wrong answers":
            return first.state == "unfit"
        if fault == "slow":
            return first.latency_seconds > 3 * max(each.latency_seconds for each in others)
        return first.state != "available" or first.failed > before

    await auntil(is_noticed, cluster.front.output)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def cluster(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose relay lives in the runner's loop."""
    cluster = Cluster(tmp_path_factory.mktemp("chaos"))
    runner.run(cluster.__aenter__())
    try:
        yield cluster
    finally:
        runner.run(cluster.__aexit__())


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_callers_notice_no_fault_of_one_instance(
    runner: asyncio.Runner, cluster: Cluster, fault: str
) -> None:
    async def suffer() -> None:
        await cluster.until_all_available()
        async with Callers(cluster.front.url, NAME).calling() as callers:
            await callers.some_more()
            for _ in range(size(2, 1)):
                await until_asked(cluster)
                async with FAULTS[fault](cluster):
                    await until_noticed(cluster, fault)
                    if fault == "wrong answers":
                        first = (await cluster.view()).instances[0]
                        assert first.why == "it answers the probe wrongly: 'y' is off by 3"
                        await callers.some_more()  # what was under way
                        callers.wrong = 0
                    await callers.some_more()
                await cluster.until_all_available()
                await callers.some_more()
        assert (callers.errors, callers.wrong) == ([], 0)

    runner.run(suffer())


@pytest.mark.parametrize("fault", OUTAGES)
def test_an_outage_is_over_when_instances_are_back(
    runner: asyncio.Runner, cluster: Cluster, fault: str
) -> None:
    async def suffer() -> None:
        await cluster.until_all_available()
        before = await cluster.view()
        async with Callers(cluster.front.url, NAME).calling() as callers:
            async with OUTAGES[fault](cluster):
                await auntil(lambda: len(callers.errors) > 100)
            await callers.some_more()
            asked = callers.answered + len(callers.errors)
            if fault == "all failing":  # where none is there, requests do not arrive
                assert (await cluster.view()).retries - before.retries <= 100 + 0.1 * asked
            await cluster.until_all_available()
            callers.errors.clear()
            await callers.some_more()
        assert callers.errors == []

    runner.run(suffer())


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_a_stream_ends_whole_or_with_an_error(runner: asyncio.Runner, cluster: Cluster, fault: str) -> None:
    ends: Counter[str] = Counter()
    said: dict[Http, str] = {}  # by what is under way

    async def stream(http: Http) -> None:
        said[http] = ""
        events = await EventStream.open(http, http.request("POST", STREAM_PATH, STREAM_BODY))
        while (event := await events.next()) is not None:
            piece = json.loads(event)
            if "error" in piece:
                ends["broken" if said[http] else "never begun"] += 1
                return
            said[http] += piece["text_output"]
        ends["whole" if said[http] == STREAMED else "cut"] += 1

    async def call() -> None:
        http = Http(cluster.front.url)
        while True:
            await stream(http)

    async def some_more() -> None:
        before = ends["whole"]
        await auntil(lambda: ends["whole"] > before + 6, cluster.front.output)

    async def all_available() -> bool:
        return {each.state for each in (await cluster.view(LETTERS)).instances} == {"available"}

    async def suffer() -> None:
        async with asyncio.TaskGroup() as callers:
            tasks = [callers.create_task(call()) for _ in range(6)]
            await auntil(all_available, cluster.front.output)
            await some_more()
            await auntil(lambda: all(said.values()))  # one without a piece would go elsewhere
            async with STREAM_FAULTS[fault](cluster):
                await auntil(lambda: ends["broken"], cluster.front.output)
                await some_more()
            await some_more()
            for task in tasks:
                task.cancel()
        # Those that were under way there; later ones had no piece yet, and went elsewhere.
        assert ends.keys() == {"whole", "broken"} and ends["broken"] <= len(tasks)

    runner.run(suffer())
