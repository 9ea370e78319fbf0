"""OpenAI's own client, unmodified, while a release of its model is under way."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from splitting_server import ledgered, splits
from waiting import auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.registry.records import Actor
from salver.features.releases.experiments.assign import assign
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.transport.server import FrontConfig

#: The letter after each one, or the one after that; of a version that fails, not after the third.
LETTERS = """
import time
import numpy as np
class Model:
    def step(self, slots, tokens):
        time.sleep(0.001)
        if FAILS and (tokens == 97 + 3 * VERSION).any():
            raise ValueError("the alphabet is lost")
        return np.eye(256, dtype="f4")[(tokens + VERSION) % 256] * 50
    def release(self, slot):
        pass
"""
CONFIG = """
versions.all = true
steps = { vocabulary = "bytes", max_sequences = 4 }
chat.template = "chat.jinja"
"""
TEXTS = {"bcdefg": "1", "cegikm": "2"}
POLICY = Policy(
    stages=(Stage(0.5, 60), Stage(1.0, 0)),
    metrics=(Metric("errors", "errors", "severe"), Metric("timeouts", "timeouts", "severe")),
    warm_up_seconds=0.0,
    bucket_seconds=0.2,
)
Ask = Callable[[openai.AsyncOpenAI, str], Awaitable[str]]


async def completed(client: openai.AsyncOpenAI, user: str) -> str:
    said = await client.completions.create(
        model="letters", prompt="a", max_tokens=6, temperature=0, user=user
    )
    return said.choices[0].text


async def chatted(client: openai.AsyncOpenAI, user: str) -> str:
    said = await client.chat.completions.create(
        model="letters", messages=[{"role": "user", "content": "a"}], max_tokens=6, temperature=0, user=user
    )
    return said.choices[0].message.content or ""


async def streamed(client: openai.AsyncOpenAI, user: str) -> str:
    stream = await client.completions.create(
        model="letters", prompt="a", max_tokens=6, temperature=0, user=user, stream=True
    )
    return "".join([piece.choices[0].text async for piece in stream if piece.choices])


async def left(client: openai.AsyncOpenAI, user: str) -> str:
    """The caller hangs up in the midst of a long answer; what came first."""
    stream: Any = await client.chat.completions.create(
        model="letters",
        messages=[{"role": "user", "content": "a"}],
        max_tokens=2000,
        temperature=0,
        user=user,
        stream=True,
    )
    async for piece in stream:
        if piece.choices[0].delta.content:
            await stream.close()
            return str(piece.choices[0].delta.content)
    raise AssertionError("nothing came")


@asynccontextmanager
async def released(
    tmp_path: Path, *, fails: bool = False
) -> AsyncIterator[tuple[Server, openai.AsyncOpenAI]]:
    """A server whose model has a release under way, and a client."""
    folder = tmp_path / "models" / "letters"
    for version in (1, 2):
        (folder / str(version)).mkdir(parents=True)
        code = LETTERS.replace("VERSION", str(version)).replace("FAILS", str(fails and version == 2))
        (folder / str(version) / "model.py").write_text(code)
    (folder / "salver.toml").write_text(CONFIG)
    (folder / "chat.jinja").write_text("{{ messages[0].content }}")
    config = ServeConfig(
        paths=(str(tmp_path / "models"),),
        front=FrontConfig(port=0),
        tables={"registry": {"ledger": str(tmp_path / "registry")}},
    )
    async with (
        Server(config) as server,
        openai.AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client,
    ):
        new = proposed("r1", "letters", ("1", "2"), POLICY, time.time())
        await ledgered(server).store.propose(new, Actor("ada"))
        # It is written down as running first, and traffic moves then.
        await comes(server, lambda _: splits(server).router.find("letters", "") is not None)
        yield server, client


async def comes(server: Server, is_so: Callable[[Release], bool]) -> Release:
    store = ledgered(server).store

    async def found() -> Release | None:
        release = await store.get("r1")
        return release if is_so(release) else None

    release: Release = await auntil(found)
    return release


def version_of(server: Server, user: str) -> str:
    route = splits(server).router.find("letters", "")
    assert route is not None
    return assign(route.splits[0], {"parameter:user": user, "request": ""}).version


async def test_a_user_has_one_version_however_it_asks_and_each_request_is_counted(tmp_path: Path) -> None:
    users = [f"user-{number}" for number in range(12)]
    async with released(tmp_path) as (server, client):
        for user in users:
            said = [TEXTS[await ask(client, user)] for ask in (completed, chatted, streamed)]
            assert said == [version_of(server, user)] * 3
            assert [model.id async for model in client.models.list()] == ["letters"]
        release = await comes(server, lambda release: release.evidence.requests.total == 3 * len(users))
        assert release.evidence.units.total == len(users)
        counts = [metric.counts for metric in release.evidence.metrics if metric.counts is not None]
        assert counts and {each.events.total for each in counts} == {0}
        assert all(metric.log_harm <= 0 for metric in release.evidence.metrics)


@pytest.mark.parametrize("ask", [completed, streamed])
async def test_a_version_that_fails_or_breaks_half_way_is_rolled_back(tmp_path: Path, ask: Ask) -> None:
    async with released(tmp_path, fails=True) as (server, client):
        said: Counter[str] = Counter()

        async def call(number: int) -> None:
            for turn in itertools.count():
                try:
                    said[await ask(client, f"user-{number}-{turn}")] += 1
                except openai.APIError as error:
                    assert "the alphabet is lost" in str(error)
                    said["failed"] += 1
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(call(number)) for number in range(4)]
        release = await comes(server, lambda release: not release.is_live)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended
        assert "errors" in release.reason
        assert said.keys() == {"bcdefg", "failed"}  # nobody had a half answer of the canary for a whole one
        assert await ask(client, "ada") == "bcdefg"


async def test_callers_who_leave_in_a_stream_are_counted_of_both_arms(tmp_path: Path) -> None:
    users = [f"user-{number}" for number in range(12)]
    async with released(tmp_path) as (server, client):
        for user in users:
            assert await left(client, user) == {"1": "b", "2": "c"}[version_of(server, user)]
        release = await comes(server, lambda release: release.evidence.requests.total == len(users))
        timeouts = release.evidence.metrics[1].counts.events
        assert timeouts.total == len(users) and timeouts.canary == release.evidence.units.canary
        assert {await streamed(client, user) for user in users} == set(TEXTS)
