"""A Python model in a host process behind the engine: what callers see when it is killed."""

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from host_engines import heard, host_engine

from salver.words.errors import HostDied, ModelFailed
from salver.words.messages import InferResponse


async def test_requests_share_a_run_in_the_host(tmp_path: Path) -> None:
    async with host_engine(tmp_path) as talk:
        answers = await asyncio.gather(talk.ask(b"a"), talk.ask(b"b", b"c\x00"), talk.ask(b""))
        assert [heard(answer) for answer in answers] == [[b"a"], [b"b", b"c\x00"], [b""]]
        assert [answer.outputs[1].array.tolist() for answer in answers] == [[4], [4, 4], [4]]
        assert [event.rows for event in talk.events] == [4]


async def test_a_culprit_does_not_cost_its_batch_mates_their_answers(tmp_path: Path) -> None:
    async with host_engine(tmp_path) as talk:
        pids = talk.runner.pids
        words = [b"a", b"bad", b"c"]
        answers = await asyncio.gather(*map(talk.ask, words), return_exceptions=True)
        assert [heard(a) for a in answers if isinstance(a, InferResponse)] == [[b"a"], [b"c"]]
        (error,) = [a for a in answers if isinstance(a, BaseException)]
        assert type(error) is ModelFailed
        assert str(error) == "model 'talk' raised ValueError: a bad word"
        assert talk.runner.pids == pids


async def test_a_small_run_is_begun_without_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with host_engine(tmp_path) as talk:
        monkeypatch.setattr(talk.runner, "run", None)
        assert heard(await talk.ask(b"a")) == [b"a"]
        answers = await asyncio.gather(talk.ask(b"b"), talk.ask(b"c"))
        assert [heard(answer) for answer in answers] == [[b"b"], [b"c"]]


async def test_a_large_run_does_not_hold_the_loop_up(tmp_path: Path) -> None:
    async with host_engine(tmp_path) as talk:
        say = np.array([[b"%d" % number] for number in range(200_000)], dtype=object)
        assert not talk.runner.post({"say": say}, lambda _: None, is_lone=True)
        outputs, _ = await talk.runner.run({"say": say})
        assert outputs["heard"].tolist() == say.tolist()


async def test_who_gives_rows_away_fails_alone(tmp_path: Path) -> None:
    async with host_engine(tmp_path) as talk:
        answers = await asyncio.gather(talk.ask(b"a"), talk.ask(b"short"), return_exceptions=True)
        assert isinstance(answers[0], InferResponse)
        assert heard(answers[0]) == [b"a"]
        assert isinstance(answers[1], ModelFailed)
        assert str(answers[1]) == "output 'heard' of model 'talk' has 0 rows for a batch of 1"


async def test_a_kill_in_mid_batch_fails_its_requests_at_once_and_no_others(tmp_path: Path) -> None:
    async with host_engine(tmp_path) as talk:
        doomed = [talk.ask(b"hold"), talk.ask(b"a")]
        host = await talk.until_held()
        assert talk.runner.pids == [host]
        os.kill(host, signal.SIGKILL)
        for request in doomed:
            with pytest.raises(
                HostDied, match=r"host process of model 'talk' died \(SIGKILL\).*may be retried"
            ):
                await request
        await talk.until_alive()
        assert heard(await talk.ask(b"again")) == [b"again"]


async def test_the_other_slot_goes_on(tmp_path: Path) -> None:
    async with host_engine(tmp_path, slots=2) as talk:
        doomed = talk.ask(b"hold")
        host = await talk.until_held()
        assert heard(await talk.ask(b"meanwhile")) == [b"meanwhile"]
        os.kill(host, signal.SIGKILL)
        answers = await asyncio.gather(*(talk.ask(b"%d" % n) for n in range(20)))
        assert [heard(answer) for answer in answers] == [[b"%d" % n] for n in range(20)]
        with pytest.raises(HostDied):
            await doomed
