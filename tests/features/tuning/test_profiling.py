"""A model with an objective is measured when it loads: what is chosen, kept, reused and learned on."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from salver.backends.protocol import LoadOptions, Traits
from salver.features.tuning.grid import GridPlacement
from salver.features.tuning.loading import LoadTuning
from salver.features.tuning.profile import Cell
from salver.features.tuning.profiles import ProfileStore, machine
from salver.features.tuning.profiling import ModelSetup, Profiler, limits_of
from salver.kernel.engine.placement import place
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.stats.batch_law import BatchLaw, LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Instances, Manifest, ModelConfig, Objective, Warmup
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

ONE, TWO = GridPlacement(1, 2), GridPlacement(2, 1)
SPEC = TensorSpec("x", DataType.FP32, (-1, 1))
ROWS = Signature((SPEC,), (TensorSpec("y", DataType.FP32, (-1, 1)),), batched=True)
ALONE = Signature((TensorSpec("x", DataType.FP32, (1,)),), (), batched=False)
THROUGHPUT = Objective(throughput=True)
#: Two runs at once do more work; one run is quicker.
LAWS = {ONE: BatchLaw(0.001, 0.002), TWO: BatchLaw(0.0018, 0.0036)}


class Clock:
    """Time passes where a run is simulated, and nowhere else."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """A model whose runs take what a law says; it counts what is done with it.

    Args:
        most: A run of more rows is refused.
        absent: Placements for which it cannot be loaded.
        takes: False: it refuses any input.
        load_s: Of loading it once.
    """

    def __init__(
        self,
        laws: Mapping[GridPlacement, BatchLaw] = LAWS,
        signature: Signature = ROWS,
        most: int = 1 << 20,
        absent: tuple[GridPlacement, ...] = (),
        takes: bool = True,
        load_s: float = 0.0,
    ) -> None:
        self.load_s = load_s
        self.laws, self.signature, self.most, self.absent, self.takes = laws, signature, most, absent, takes
        self.clock = Clock()
        self.opened: list[GridPlacement] = []
        self.open: list[Runs] = []
        self.sizes: list[int] = []
        self.busy: set[object] = set()  # models that run now
        self.together = 0

    async def runner(self, placed: GridPlacement) -> "Runs":
        if placed in self.absent:
            raise LoadFailed(f"no memory for {placed}")
        self.clock.now += self.load_s
        self.opened.append(placed)
        self.open.append(Runs(self, placed))
        return self.open[-1]


class Runs:
    """See :class:`~salver.kernel.engine.ports.Runner`."""

    def __init__(self, world: World, placed: GridPlacement) -> None:
        self.world, self.placed = world, placed
        self.signature, self.slots = world.signature, placed.instances

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        world, rows = self.world, inputs["x"].shape[0]
        if not world.takes or rows > world.most:
            raise ModelFailed(f"it takes no {rows} rows")
        world.sizes.append(rows)
        world.busy.add(self)
        world.together = max(world.together, len(world.busy))
        await asyncio.sleep(0)
        world.busy.discard(self)
        seconds = world.laws[self.placed].seconds(rows)
        world.clock.now += seconds / self.slots
        return {}, seconds

    def run_inline(self, inputs: Mapping[str, Array]) -> None:
        """Never."""

    async def run_each(self, inputs: Mapping[str, Array]) -> list[Mapping[str, Array]]:
        return [(await self.run(inputs))[0]]

    async def close(self) -> None:
        self.world.open.remove(self)


class Backend:
    """Of threads that share one model; loads what does nothing."""

    name = extra = "still"
    modules: tuple[str, ...] = ("numpy",)
    traits = Traits()

    def recognise(self, path: Path) -> str | None:
        return None

    def load(self, manifest: Manifest, options: LoadOptions) -> "Still":
        return Still()


class Still:
    signature = ROWS

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": inputs["x"]}

    def close(self) -> None:
        """Nothing to give back."""


def manifest(folder: Path, **config: object) -> Manifest:
    path = folder / "m" / "1" / "model.bin"
    if not path.exists():
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")
    settings = ModelConfig(**{"objective": THROUGHPUT, **config})
    return Manifest(ModelId("m", "1"), path, "bin", "still", settings)


async def find(
    world: World, found: Manifest, store: ProfileStore | None = None, cores: int = 2, profiler=None
) -> ModelSetup:
    backend, config = Backend(), found.config
    placement = place(backend.traits, config.instances, cores)
    limits = limits_of(config, config.instances, placement, backend, cores)
    default = GridPlacement(placement.slots, placement.threads)
    profiler = profiler or Profiler(store or ProfileStore(), world.clock, cores)
    return await profiler.find(found, backend, limits, default, world.runner)


def law_of(found: ModelSetup) -> BatchLaw:
    assert found.laws is not None
    return found.laws.usual.law()


def is_known(found: ModelSetup) -> bool:
    return found.laws is not None and found.laws.usual.is_known


def learned(law: BatchLaw, runs: int) -> ShapeLaws:
    """As if so many live runs had taught it."""
    live = LiveLaw(law)
    live.runs = runs
    return ShapeLaws(live)


def cells(found: ModelSetup) -> int:
    assert found.profile is not None
    return len(found.profile.measured)


# -- what is chosen ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "placed", "rows"),
    [(THROUGHPUT, TWO, 32), (Objective(latency_p99_ms=8), ONE, 4), (Objective(deadline_ms=8), ONE, 4)],
)
async def test_four_runs_of_eighteen_tell_where_the_objective_is_met_best(
    tmp_path: Path, objective: Objective, placed: GridPlacement, rows: int
) -> None:
    world = World()
    found = await find(world, manifest(tmp_path, objective=objective))
    assert found.setting is not None
    assert (found.placed, found.setting.max_rows, found.config.batching.max_rows) == (placed, rows, rows)
    assert cells(found) <= 4
    assert law_of(found).seconds(rows) == pytest.approx(LAWS[placed].seconds(rows), rel=0.01)
    assert found.config.objective == objective
    assert world.open == [found.runner]
    assert found.runner.placed == placed


async def test_a_bend_where_caches_end_is_seen(tmp_path: Path) -> None:
    law = BatchLaw(0.001, 0.001, 8, 0.004)
    found = await find(World({ONE: law, TWO: law.scaled(2.5)}), manifest(tmp_path))
    assert (found.placed, found.config.batching.max_rows) == (ONE, 8)
    assert law_of(found).kink == 8
    assert [law_of(found).seconds(b) for b in (8, 32)] == pytest.approx(
        [law.seconds(b) for b in (8, 32)], rel=0.02
    )


async def test_what_the_owner_has_fixed_stays(tmp_path: Path) -> None:
    batching, instances = Batching(max_rows=5), Instances(count=1, threads=2)
    found = await find(World(), manifest(tmp_path, batching=batching, instances=instances))
    assert (found.placed, found.config.batching) == (ONE, batching)


async def test_without_a_batch_dimension_only_the_placement_is_chosen(tmp_path: Path) -> None:
    found = await find(World(signature=ALONE), manifest(tmp_path))
    assert found.placed == TWO
    assert found.config.batching == Batching()


async def test_a_size_that_the_model_refuses_is_asked_for_once_and_never_again(tmp_path: Path) -> None:
    store, settings = ProfileStore(str(tmp_path / "state")), manifest(tmp_path)
    found = await find(World(most=8), settings, store)
    assert found.config.batching.max_rows == 8
    assert found.profile is not None
    assert Cell(1, 2, 32) in found.profile.refused
    again = World(most=8)
    assert (await find(again, settings, store)).config.batching.max_rows == 8
    assert again.sizes == []


async def test_a_placement_without_memory_is_left_out(tmp_path: Path) -> None:
    world = World(absent=(TWO,))
    assert (await find(world, manifest(tmp_path))).placed == ONE


async def test_a_model_that_cannot_be_loaded_says_why_and_leaves_nothing_open(tmp_path: Path) -> None:
    world = World(absent=(ONE, TWO))
    with pytest.raises(LoadFailed, match="no memory for 1 × 2 threads"):
        await find(world, manifest(tmp_path))
    assert world.open == []


async def test_a_model_that_takes_no_zeros_is_served_as_without_an_objective(tmp_path: Path) -> None:
    world, store = World(takes=False), ProfileStore(str(tmp_path / "state"))
    found = await find(world, manifest(tmp_path), store)
    assert (found.placed, found.setting, is_known(found)) == (ONE, None, False)
    assert found.config.batching == Batching()
    assert world.open == [found.runner]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("slow", [ONE, TWO])
async def test_a_busy_moment_of_the_machine_decides_nothing(tmp_path: Path, slow: GridPlacement) -> None:
    """The first cells of a placement are measured while others take most of the machine."""

    class Disturbed(World):
        async def runner(self, placed: GridPlacement) -> Runs:
            runner = await super().runner(placed)
            self.laws = {**LAWS, slow: LAWS[slow].scaled(5)} if placed == slow else LAWS
            asyncio.get_running_loop().call_soon(self.recover)
            return runner

        def recover(self) -> None:
            if self.clock() < 1.0:
                asyncio.get_running_loop().call_soon(self.recover)
            else:
                self.laws = LAWS

    found = await find(Disturbed(), manifest(tmp_path))
    assert (found.placed, found.config.batching.max_rows) == (TWO, 32)
    assert law_of(found).seconds(32) == pytest.approx(LAWS[TWO].seconds(32), rel=0.01)


async def test_a_slow_model_is_not_measured_for_long(tmp_path: Path) -> None:
    world = World({ONE: BatchLaw(4.0, 1.0), TWO: BatchLaw(8.0, 2.0)})
    found = await find(world, manifest(tmp_path))
    assert found.setting is not None
    assert len(world.sizes) <= 3
    assert max(world.sizes) <= 2


async def test_a_model_that_loads_slowly_is_measured_none_the_less(tmp_path: Path) -> None:
    found = await find(World(load_s=60.0), manifest(tmp_path))
    assert (found.placed, cells(found)) == (TWO, 4)


async def test_two_models_are_never_measured_at_the_same_time(tmp_path: Path) -> None:
    world = World()
    profiler = Profiler(ProfileStore(), world.clock, 2)
    pair = [manifest(tmp_path / name, instances=Instances(1, threads=2)) for name in "ab"]
    await asyncio.gather(*(find(world, each, profiler=profiler) for each in pair))
    assert world.together == 1


async def test_runs_are_of_the_owners_warm_up_request(tmp_path: Path) -> None:
    settings = manifest(tmp_path, warmup=Warmup(file="ask.json"))
    row = '{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [7, 8]}'
    (settings.path.parent / "ask.json").write_text(f'{{"inputs": [{row}]}}')
    seen: list[Array] = []

    class Watched(World):
        async def runner(self, placed: GridPlacement) -> Runs:
            runner = await super().runner(placed)
            run = runner.run

            async def watched(inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
                seen.append(inputs["x"])
                return await run(inputs)

            runner.run = watched  # type: ignore[method-assign]
            return runner

    assert (await find(Watched(), settings)).setting is not None
    assert {len(array) for array in seen} >= {1, 32}
    assert all(
        array.ravel().tolist() == [7, 8] * (len(array) // 2) + [7] * (len(array) % 2) for array in seen
    )


# -- what is kept -----------------------------------------------------------------------------------


async def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    settings, folder = manifest(tmp_path), str(tmp_path / "state")
    first = await find(World(), settings, ProfileStore(folder))
    world = World()
    second = await find(world, settings, ProfileStore(folder))
    assert world.sizes == []
    assert world.opened == [TWO]
    assert second._replace(runner=first.runner, laws=first.laws) == first
    assert law_of(second) == law_of(first)


def touch(settings: Manifest) -> Manifest:
    """What does not make another model of it."""
    settings.path.write_bytes(settings.path.read_bytes())
    (settings.path.parent / "__pycache__").mkdir()
    (settings.path.parent / "__pycache__" / "x.pyc").write_bytes(b"left by Python")
    return msgspec.structs.replace(settings, fingerprint="of another day")


def other_weights(settings: Manifest) -> Manifest:
    settings.path.write_bytes(b"others")
    return settings


def other_file_beside(settings: Manifest) -> Manifest:
    (settings.path.parent / "model.bin.data").write_bytes(b"outer weights")
    return settings


def other_objective(settings: Manifest) -> Manifest:
    config = msgspec.structs.replace(settings.config, objective=Objective(latency_p99_ms=50))
    return msgspec.structs.replace(settings, config=config)


@pytest.mark.parametrize(
    ("change", "is_another"),
    [(touch, False), (other_weights, True), (other_file_beside, True), (other_objective, True)],
)
async def test_another_model_is_measured_anew(tmp_path: Path, change, is_another: bool) -> None:
    settings, store = manifest(tmp_path), ProfileStore(str(tmp_path / "state"))
    await find(World(), settings, store)
    world = World()
    await find(world, change(settings), store)
    assert bool(world.sizes) is is_another


@pytest.mark.parametrize(
    "other",
    [{"cpu": "another"}, {"cores": 3}, {"versions": {"salver": "0.0.1"}}, {"versions": {"numpy": "1.0"}}],
    ids=str,
)
async def test_a_profile_of_another_machine_or_version_does_not_count(tmp_path: Path, other) -> None:
    settings, store = manifest(tmp_path), ProfileStore(str(tmp_path / "state"))
    profile = (await find(World(), settings, store)).profile
    assert profile is not None
    assert set(profile.machine.versions) == {"salver", "numpy"}
    there = msgspec.structs.replace(profile.machine, **other)
    store.write(msgspec.structs.replace(profile, machine=there))
    world = World()
    await find(world, settings, store)
    assert world.sizes != []
    kept = store.read(profile.key, machine(Backend(), 2))
    assert kept is not None  # and now it is this machine's


@pytest.mark.parametrize(("runs", "is_kept"), [(63, False), (64, True)])
async def test_what_live_runs_taught_is_where_the_next_day_starts(
    tmp_path: Path, runs: int, is_kept: bool
) -> None:
    settings, store = manifest(tmp_path), ProfileStore(str(tmp_path / "state"))
    profiler = Profiler(store, Clock(), 2)
    found = await find(World(), settings, store)
    assert found.profile is not None
    slower = LAWS[TWO].scaled(1.5)
    await profiler.remember(found.profile, TWO, learned(slower, runs))
    world = World()
    after = await find(world, settings, store)
    assert (law_of(after) == slower) is is_kept
    assert (after.placed, after.setting) == (found.placed, found.setting)  # which measurements decide
    assert world.sizes == []


async def test_live_laws_join_what_others_have_kept_meanwhile(tmp_path: Path) -> None:
    settings, store = manifest(tmp_path), ProfileStore(str(tmp_path / "state"))
    profiler = Profiler(store, Clock(), 2)
    found = await find(World(), settings, store)
    assert found.profile is not None
    await profiler.remember(found.profile, ONE, learned(LAWS[ONE].scaled(2), 100))
    await profiler.remember(found.profile, TWO, learned(LAWS[TWO].scaled(3), 100))
    kept = store.read(found.profile.key, found.profile.machine)
    assert kept is not None
    assert kept.law(1, 2) == LAWS[ONE].scaled(2)
    assert kept.law(2, 1) == LAWS[TWO].scaled(3)


async def test_what_was_taught_of_other_sizes_of_rows_is_kept_beside_it(tmp_path: Path) -> None:
    texts = msgspec.structs.replace(ROWS, inputs=(TensorSpec("x", DataType.FP32, (-1, -1)),))
    settings, store = manifest(tmp_path, warmup=Warmup(free_dim=16)), ProfileStore(str(tmp_path / "state"))
    found = await find(World(signature=texts), settings, store)
    assert found.profile is not None and found.laws is not None
    long, short = found.laws.of(400), found.laws.of(16)
    assert short is found.laws.usual  # as large as what was measured
    assert long.law().a == pytest.approx(512 / 16 * short.law().a)
    for _ in range(100):
        long.observe(1, 0.5)
    found.laws.of(3).observe(1, 0.5)  # once: nothing to keep
    await Profiler(store, Clock(), 2).remember(found.profile, found.placed, found.laws)
    again = await find(World(signature=texts), settings, store)
    assert again.laws is not None
    assert sorted(again.laws.others()) == [512]
    assert again.laws.of(400).law().seconds(1) == pytest.approx(long.law().seconds(1))
    assert law_of(again) == law_of(found)


# -- as loaded --------------------------------------------------------------------------------------


async def test_a_servable_runs_as_chosen_and_keeps_its_law_when_it_is_closed(tmp_path: Path) -> None:
    store = ProfileStore(str(tmp_path / "state"))
    settings = manifest(tmp_path, objective=Objective(latency_p99_ms=1000))
    additions = Additions(tuning=LoadTuning(store, time.monotonic, 2))
    loader = Loader({"still": Backend()}, Bus(()), time.monotonic, Terms(cores=2), additions)
    servable = await loader.load(settings)
    assert servable.engine.insight().rule == "half-floor"  # its admission keeps the objective
    request = InferRequest("m", (tensor("x", np.ones((3, 1), "f4")),))
    for _ in range(80):
        answer = await servable.infer(request)
        assert answer.outputs[0].array.tolist() == [[1.0]] * 3
    law = servable.engine.laws.usual.law()
    assert servable.engine.laws.usual.runs >= 80
    await servable.close()
    kept = store.read(store.key(settings), machine(Backend(), 2))
    assert kept is not None
    assert kept.law(servable.placement.slots, servable.placement.threads) == law
    again = await loader.load(settings)
    assert again.engine.laws.usual.law() == law
    await again.close()
