"""Host processes are confined to their cores and their time, or the load says why not."""

import os
from pathlib import Path

import numpy as np
import pytest
from host_processes import MANIFEST, at_once, recovery
from msgspec.structs import replace

from salver.backends.protocol import LoadOptions, Traits
from salver.kernel.engine.isolation import Groups, confine, find_groups, limit_time, own_cores
from salver.kernel.engine.placement import Placement, place
from salver.kernel.engine.process import ProcessRunner
from salver.kernel.repository.toml import parse_toml
from salver.words.artifacts import Instances
from salver.words.errors import InvalidInput, LoadFailed

HERE = sorted(os.sched_getaffinity(0))


def test_a_confined_model_runs_in_a_host_process_with_a_thread_a_core() -> None:
    assert place(Traits(), Instances(cpus=(0,)), cores=8) == Placement("process", 1, 1)
    assert place(Traits(), Instances(cpus=(4, 5), count=2), cores=8) == Placement("process", 2, 1)
    assert place(Traits(), Instances(cpu_quota=0.5), cores=2) == Placement("process", 1, 2)
    assert [own_cores((4, 5), instance, 1) for instance in range(3)] == [[4], [5], [4, 5]]


@pytest.mark.parametrize(
    "text",
    [
        "instances = { runner = 'thread', cpus = [0] }",
        "instances = { runner = 'thread', cpu_quota = 0.5 }",
        "instances = { cpus = [-1] }",
        "instances = { cpus = ['a'] }",
        "objective = { rate = 10 }",
        "objective = { rate = -1, latency_p99 = '10ms' }",
    ],
)
def test_what_cannot_be_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_toml(text.encode(), "salver.toml")


def test_a_core_that_the_server_does_not_have_is_named() -> None:
    with pytest.raises(LoadFailed, match="names cores that the server may not use: 65000"):
        confine(Instances(cpus=(HERE[0], 65000)), 0, 2)
    assert sorted(os.sched_getaffinity(0)) == HERE


def _fake(root: Path, *, version: int, controllers: str = "cpu memory") -> str:
    """Write a hierarchy as the kernel shows it; return this process's groups."""
    if version == 2:
        own = root / "system" / "salver"
        own.mkdir(parents=True)
        (root / "system" / "cgroup.subtree_control").write_text(controllers)
        (own / "cgroup.subtree_control").write_text("")
        return "0::/system/salver\n"
    (root / "cpu,cpuacct" / "box").mkdir(parents=True)
    return "5:memory:/elsewhere\n3:cpu,cpuacct:/box\n0::/\n"


def test_a_quota_is_a_group_of_its_own(tmp_path: Path) -> None:
    for version, names in ((2, {"cpu.max": "50000 100000"}), (1, {"cpu.cfs_quota_us": "50000"})):
        root = tmp_path / str(version)
        groups = find_groups(root, _fake(root, version=version))
        assert groups is not None and groups.version == version
        (groups.folder / "salver-host-1").mkdir()  # of a host that is gone
        limit_time(groups, 0.5, 4711)
        folder = groups.folder / "salver-host-4711"
        assert {name: (folder / name).read_text() for name in names} == names
        assert (folder / "cgroup.procs").read_text() == "4711"
        assert not (groups.folder / "salver-host-1").exists()


def test_where_groups_may_not_be_made_the_load_says_so(tmp_path: Path) -> None:
    assert find_groups(tmp_path, _fake(tmp_path, version=2, controllers="memory")) is None
    assert find_groups(tmp_path, "0::/\n") is None
    with pytest.raises(LoadFailed, match=r"instances\.cpu_quota: .*salver-host-1: "):
        limit_time(Groups(tmp_path / "missing", 1), 0.5, 1)


def affinities(pid: int) -> set[tuple[int, ...]]:
    return {tuple(os.sched_getaffinity(int(task.name))) for task in Path(f"/proc/{pid}/task").iterdir()}


async def test_every_thread_of_a_host_process_stays_on_its_cores() -> None:
    config = replace(MANIFEST.config, instances=Instances(cpus=(HERE[-1],)))
    confined, options = replace(MANIFEST, config=config), LoadOptions(threads=1)
    runner = await ProcessRunner.start("host_backends:Good", confined, options, recovery=recovery(at_once))
    try:
        outputs, _ = await runner.run({"x": np.array([[1.5, 2.0]], "f4")})
        assert outputs["y"].shape[0] == 1
        (pid,) = runner.pids
        assert affinities(pid) == {(HERE[-1],)}
    finally:
        await runner.close()
    assert sorted(os.sched_getaffinity(0)) == HERE
