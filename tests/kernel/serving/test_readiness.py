"""When should a load balancer send requests here?"""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from salver.kernel.serving.readiness import Readiness, Rule
from salver.words.errors import NotReady
from salver.words.messages import ModelId


class World:
    """Models that are wanted, and versions that are loaded."""

    def __init__(self, *wanted: str) -> None:
        self.names: frozenset[str] | None = frozenset(wanted)
        self.missing: frozenset[str] = frozenset()
        self.loaded: list[Any] = []
        self.is_whole = False
        self.pinned = ""

    def acquire(self, name: str, version: str = "") -> Any:
        for each in self.loaded:
            if each.manifest.id.name == name and self.pinned in ("", each.manifest.id.version):
                return SimpleNamespace(release=lambda: None)
        raise NotReady("no available versions")

    def wanted(self) -> frozenset[str] | None:
        return self.names

    def want(self, *names: str) -> None:
        self.names = frozenset(names)

    def servables(self) -> list[Any]:
        return self.loaded

    def ready(self) -> bool:
        return self.is_whole

    def load(self, name: str, version: str = "1", has_workers: bool | None = None) -> None:
        async def is_staffed() -> bool:
            return bool(has_workers)

        manifest = SimpleNamespace(id=ModelId(name, version))
        staffed = None if has_workers is None else is_staffed
        self.loaded.append(SimpleNamespace(hangs=False, manifest=manifest, is_staffed=staffed))

    def unload(self, name: str) -> None:
        self.loaded = [each for each in self.loaded if each.manifest.id.name != name]


def readiness(world: World, rule: Rule = "serving", *, has_settled: bool = True) -> Readiness:
    found = Readiness(rule, cast(Any, world), world)
    found.is_up, found.has_settled = True, has_settled
    return found


async def test_it_is_ready_when_each_model_has_a_version_that_answers() -> None:
    world = World("a", "b")
    found = readiness(world)
    assert not await found.is_ready()
    world.load("a")
    assert not await found.is_ready(), "b is loading for the first time"
    world.load("b")
    assert await found.is_ready()


async def test_a_version_that_loads_or_fails_beside_one_that_serves_changes_nothing() -> None:
    world = World("a")
    world.load("a", "1")
    world.is_whole = False  # as long as version 2 is not there
    assert await readiness(world).is_ready()
    assert not await readiness(world, "whole").is_ready()
    assert await readiness(world, "settled").is_ready()


async def test_it_is_not_ready_before_the_version_that_requests_mean_which_name_none() -> None:
    world = World("a")
    world.pinned = "1"
    world.load("a", "2")
    found = readiness(world)
    assert not await found.is_ready()
    world.load("a", "1")
    assert await found.is_ready()
    world.pinned = "3"  # a server that is in rotation stays there
    assert await found.is_ready()


async def test_a_model_that_is_added_later_counts_from_its_first_answer_on() -> None:
    world = World("a")
    world.load("a")
    found = readiness(world)
    assert await found.is_ready()
    world.want("a", "new")
    assert await found.is_ready(), "it loads, or has failed to"
    world.load("new")
    assert await found.is_ready()
    world.unload("new")
    assert not await found.is_ready(), "it has answered, is wanted, and does not answer any more"


async def test_a_model_that_was_taken_out_is_a_new_one_when_it_comes_back() -> None:
    world = World("a", "b")
    world.load("a")
    world.load("b")
    found = readiness(world)
    assert await found.is_ready()
    world.want("a")
    world.unload("b")
    assert await found.is_ready()
    world.want("a", "b")
    assert await found.is_ready()


async def test_nothing_is_new_until_the_first_loads_have_ended() -> None:
    world = World()
    found = readiness(world, has_settled=False)
    assert await found.is_ready(), "nothing is wanted"
    world.want("handler")  # which is registered after the repository was read
    assert not await found.is_ready()


async def test_it_is_not_ready_before_anybody_has_said_what_is_wanted() -> None:
    world = World()
    world.names = None
    assert not await readiness(world).is_ready()


async def test_a_model_that_is_named_and_not_there_counts() -> None:
    world = World("a")
    world.load("a")
    world.missing = frozenset({"b"})
    assert not await readiness(world).is_ready()


async def test_of_a_handler_a_version_with_workers_is_enough() -> None:
    world = World("h")
    world.load("h", "2", has_workers=False)
    assert not await readiness(world).is_ready()
    world.load("h", "1", has_workers=True)
    world.is_whole = True
    assert await readiness(world).is_ready()
    assert not await readiness(world, "whole").is_ready(), "as in TorchServe"


@pytest.mark.parametrize("rule", ["serving", "whole", "settled"])
async def test_it_is_ready_only_from_the_start_of_all_parts_to_its_end(rule: Rule) -> None:
    world = World("a")
    world.load("a")
    world.is_whole = True
    found = readiness(world, rule)
    found.is_up = False
    assert not await found.is_ready(), "a release may not have said yet which version requests get"
    found.is_up = True
    assert await found.is_ready()
    found.is_ending = True
    assert not await found.is_ready()
