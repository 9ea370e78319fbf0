"""Assignment of GPUs to workers: in turn, and kept by restarted workers."""

import asyncio
from itertools import islice
from pathlib import Path

import pytest
from handler_worlds import all_there, kill, world_of
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve.engine.gpus import Gpus
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.machine import count_gpus
from salver.words.handlers import Workers

FOUND = [
    (None, 3),
    ("", 0),
    ("-1", 0),
    ("0", 1),
    ("2, 0", 2),
    ("0,1,2,3", 3),
    ("0,7,1", 1),
    ("1,-1,0", 1),
    ("GPU-8932f937,MIG-GPU-8932f937/1/2", 2),
    ("none", 0),
]


@pytest.mark.clause("TS-Y2")
@pytest.mark.parametrize(("visible", "count"), FOUND)
def test_gpus_are_those_that_cuda_would_show(tmp_path: Path, visible: str | None, count: int) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(environment, tmp_path) == count


@pytest.mark.clause("TS-Y2")
def test_without_a_folder_of_devices_there_is_none(tmp_path: Path) -> None:
    assert count_gpus({}, tmp_path / "none") == 0


@pytest.mark.clause("TS-Y2")
@given(count=st.integers(1, 8), models=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_workers_of_all_models_are_spread_evenly(count: int, models: list[int]) -> None:
    gpus = Gpus(count)
    given_out = [gpu for workers in models for gpu in islice(gpus.turns(Workers()), workers)]
    shares = [given_out.count(gpu) for gpu in range(count)]
    assert sum(shares) == sum(models)
    assert max(shares) - min(shares) <= 1


@pytest.mark.clause("TS-Y2")
@given(ids=st.lists(st.integers(0, 7), min_size=1, unique=True), workers=st.integers(1, 20))
def test_named_ones_go_round_by_themselves(ids: list[int], workers: int) -> None:
    gpus = Gpus(8)
    mine = list(islice(gpus.turns(Workers(device="gpu", device_ids=tuple(ids))), workers))
    assert mine == [ids[worker % len(ids)] for worker in range(workers)]
    assert next(gpus.turns(Workers())) == 0


@pytest.mark.clause("TS-Y2")
@pytest.mark.parametrize("shares", [False, True])
async def test_each_worker_is_told_its_own_and_keeps_it(shares: bool) -> None:
    async with world_of(least=3, gpus=Gpus(2), shares=shares, max_batch_delay_ms=0) as world:
        assert [status.gpu for status in world.engine.workers()] == [0, 1, 0]
        pid = world.engine.workers()[1].pid
        kill(pid)
        await all_there(world, pid)
        told = {str(status.pid): str(status.gpu) for status in world.engine.workers()}
        assert list(told.values()) == ["0", "1", "0"]
        said = await asyncio.gather(*[world.ask("sleep 0.05") for _ in range(2)], world.ask("who"))
        assert told[said[2].split()[0]] == said[2].split()[1]


@pytest.mark.clause("TS-Y2")
async def test_its_process_sees_the_number() -> None:
    async with world_of(gpus=Gpus(2), device_ids=(1,), shares=True) as world:
        assert (await world.ask("who")).split()[1] == "1"
    async with world_of(gpus=Gpus(2), device="cpu", shares=True) as world:
        assert (await world.ask("who")).split()[1] == "None"
        assert world.engine.workers()[0].gpu is None


@pytest.mark.clause("TS-Y2")
def test_a_server_uses_those_of_its_machine_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.dialects.torchserve.registering.count_gpus", lambda: 5)
    assert HandlerStoreConfig().gpus_used == 5
    assert [HandlerStoreConfig(gpus=count).gpus_used for count in (0, 7)] == [0, 7]
