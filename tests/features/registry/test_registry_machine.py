"""Aliases, versions and the audit against a model of them: any order of changes, on both databases."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from registries import ANN, KINDS, found, open_registry

from salver.features.registry.names import Reference
from salver.features.registry.records import NewVersion
from salver.words.errors import Conflict, NotFound

MODELS = st.sampled_from(["fraud", "price"])
ALIASES = st.sampled_from(["champion", "candidate"])
NUMBERS = st.integers(1, 5)


class Machine(RuleBasedStateMachine):
    """What there is, as the registry has it, and as a few dictionaries do."""

    kind = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.registry = self.do(open_registry(self.kind, Path(self.folder.name) / "registry"))
        self.there: dict[str, set[int]] = {"fraud": set(), "price": set()}
        self.last = {"fraud": 0, "price": 0}
        self.meant: dict[tuple[str, str], int] = {}
        self.told: list[tuple[str, str, str, str]] = []

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.do(self.registry.ledger.close())
        self.loop.close()
        self.folder.cleanup()

    @rule(model=MODELS)
    def push(self, model: str) -> None:
        what = found(Path(self.folder.name) / "new")
        version = self.do(self.registry.push(NewVersion(model), what, ANN))
        self.last[model] += 1
        assert version.number == self.last[model]
        self.there[model].add(version.number)
        self.told.append(("version.pushed", model, "", version.digest))

    @rule(model=MODELS, alias=ALIASES, number=NUMBERS)
    def move(self, model: str, alias: str, number: int) -> None:
        before = self.meant.get((model, alias))
        if number not in self.there[model]:
            with pytest.raises(NotFound):
                self.do(self.registry.set_alias(model, alias, number, ANN))
            return
        self.do(self.registry.set_alias(model, alias, number, ANN))
        self.meant[model, alias] = number
        if before != number:
            self.told.append(("alias.moved", model, str(before or ""), str(number)))

    @rule(model=MODELS, alias=ALIASES)
    def delete(self, model: str, alias: str) -> None:
        if (model, alias) not in self.meant:
            with pytest.raises(NotFound):
                self.do(self.registry.delete_alias(model, alias, ANN))
            return
        self.do(self.registry.delete_alias(model, alias, ANN))
        self.told.append(("alias.deleted", model, str(self.meant.pop((model, alias))), ""))

    @rule(model=MODELS, number=NUMBERS)
    def remove(self, model: str, number: int) -> None:
        is_meant = any(of == model and n == number for (of, _), n in self.meant.items())
        if number not in self.there[model] or is_meant:
            with pytest.raises((NotFound, Conflict)):
                self.do(self.registry.remove(model, number, ANN))
            return
        self.do(self.registry.remove(model, number, ANN))
        self.there[model].discard(number)
        self.told.append(("version.removed", model, "", ""))

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        known = {model.name: model for model in self.do(self.registry.models())}
        assert set(known) == {name for name, last in self.last.items() if last}
        for name, model in known.items():
            assert model.latest == max(self.there[name], default=None)
            assert model.versions == len(self.there[name])
            assert model.aliases == {alias: n for (of, alias), n in self.meant.items() if of == name}
            for alias, number in model.aliases.items():
                assert self.do(self.registry.version(Reference(name, alias=alias))).number == number
            homes = registry_homes(self.registry.artifacts.models / name)
            assert homes == self.there[name]
        told = [(e.action, e.model, e.before, e.after) for e in self.do(self.registry.history(most=1000))]
        assert told[::-1] == self.told


def registry_homes(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_changes(kind: str) -> None:
    class OfKind(Machine):
        pass

    OfKind.kind = kind
    few = settings(
        max_examples=12 if kind == "sqlite" else 3,
        stateful_step_count=20,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(OfKind, settings=few)
