"""Routing table of the splits in force.

The table is replaced as a whole. Looking up a model costs one access, and a recently seen unit another.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from salver.features.releases.experiments.assign import (
    Reason,
    assigned,
    check,
    drawn,
    is_shadowed,
    is_told,
    placed,
    unit_of,
)
from salver.words.messages import Call, InferRequest
from salver.words.releases import (
    COUNTED,
    HEADER,
    PARAMETER,
    REQUEST,
    SEQUENCE,
    TENANT,
    Arm,
    Assignment,
    Source,
    Split,
    trait,
)

_MOST_KNOWN: Final = 32_768  # cached plans per model, about four megabytes


class Plan(msgspec.Struct, frozen=True, eq=False):
    """Routing of requests to a model in a release; equal plans share one object.

    Attributes:
        route: Its route.
        split: The split that applies.
        assignment: None = unknown until the parameters are read.
        versions: The version to use, and the fallback if it is not ready.
        is_watched: The answer is analysed.
        may_want: One of the next two holds.
        is_shadowed: The request is copied to the canary after the stable version has answered.
    """

    route: "Route"
    split: Split
    assignment: Assignment | None
    versions: tuple[str, ...]
    may_want: bool = False
    is_shadowed: bool = False
    is_watched: bool = False


class Route:
    """Splits of a model for one value of the requested version.

    Args:
        splits: Splits; if there are several, of one layer.
    """

    def __init__(self, splits: tuple[Split, ...]) -> None:
        one = splits[0]
        self.splits = splits
        self._open = Plan(self, one, None, (one.stable,))
        self._plans: dict[tuple[str, Arm, Reason, bool, bool], Plan] = {}
        self._known: dict[str, Plan] = {}
        is_plain = len(splits) == 1 and not one.only
        #: The only source, if a request with it needs no others.
        self._first = one.units[0] if is_plain and one.units[0] != REQUEST else ""
        its = (self._plan(one, "", arm, "hash") for arm in (Arm.CANARY, Arm.BASELINE, Arm.STABLE))
        self._drawn = drawn(one, *its) if one.shadow is None else None

    def __repr__(self) -> str:
        return f"<Route of {', '.join(split.release for split in self.splits)}>"

    def recall(self, call: Call) -> Plan | None:
        """Return the plan of a unit from the first source if nothing else matters; None = evaluate fully.

        Like the other methods it records the unit in the call.
        """
        unit = None if (traits := call.traits) is None else traits.get(self._first)
        if unit is None:
            return None
        call.unit = unit
        plan = self._known.get(unit)
        if plan is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            plan = self._known[unit] = (self._drawn or self._ruled)(unit)
        return plan

    def _ruled(self, unit: str) -> Plan:
        split = self.splits[0]
        return self._plan(split, unit, *placed(split, unit))

    def early(self, call: Call, traits: Mapping[Source, str]) -> Plan:
        """Return the plan before the body has been read: an open one if the body may change it.

        Args:
            traits: Values of the request, always including its own id.
        """
        for split in self.splits:
            if not is_told(split, traits):
                return self._open
        return self.settled(call, traits)

    def settled(self, call: Call, traits: Mapping[Source, str]) -> Plan:
        """Return the plan: the release whose conditions hold, else the first one's stable version.

        Args:
            traits: All values of the request, always including its own id.
        """
        for split in self.splits:
            call.unit, has_unit = unit_of(split, traits)
            arm, reason = placed(split, call.unit, traits)
            if reason != "excluded":
                return self._plan(split, call.unit, arm, reason, has_unit)
        first = self.splits[0]
        call.unit, has_unit = unit_of(first, traits)
        return self._plan(first, call.unit, Arm.STABLE, "excluded", has_unit)

    def _plan(self, split: Split, unit: str, arm: Arm, reason: Reason, has_unit: bool = True) -> Plan:
        is_copied = (
            split.shadow is not None
            and reason in COUNTED
            and arm is not Arm.CANARY
            and is_shadowed(split, unit)
        )
        key = split.release, arm, reason, has_unit, is_copied
        plan = self._plans.get(key)
        if plan is None:
            where = assigned(split, arm, reason, has_unit=has_unit)
            versions = (where.version,) if where.version == split.stable else (where.version, split.stable)
            is_watched = split.is_watched and reason in COUNTED
            plan = Plan(self, split, where, versions, is_copied or is_watched, is_copied, is_watched)
            self._plans[key] = plan
        return plan


class Router:
    """Splits by model and requested version."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], Route] = {}
        self._parameters: tuple[str, ...] = ()
        #: Header names (lower case) that some split reads, with their sources.
        self.headers: Mapping[bytes, Source] = {}

    def __repr__(self) -> str:
        return f"<Router of {', '.join(':'.join(key) for key in self._table) or 'nothing'}>"

    def __bool__(self) -> bool:
        return bool(self._table)

    def replace(self, splits: Sequence[Split]) -> None:
        """Put these splits in force, replacing all others.

        Raises:
            InvalidInput: they conflict; nothing was changed.
        """
        check(splits)
        table: dict[tuple[str, str], tuple[Split, ...]] = {}
        for split in splits:
            for asked in split.asked:
                for key in ((split.model, asked), (f"{split.model}@{asked}", ""))[: 1 + bool(asked)]:
                    table[key] = (*table.get(key, ()), split)
        sources = {s for split in splits for s in (*split.units, *(only.source for only in split.only))}
        self.headers = {
            source.removeprefix(HEADER).encode(): source for source in sources if source.startswith(HEADER)
        }
        names = {source.removeprefix(PARAMETER) for source in sources if source.startswith(PARAMETER)}
        self._parameters = tuple(names)
        known = self._table
        self._table = {
            key: route if (route := known.get(key)) and route.splits == some else Route(some)
            for key, some in table.items()
        }

    def find(self, model: str, asked: str) -> Route | None:
        """Return the route for requests of this model and version; None = not split."""
        return self._table.get((model, asked))

    def traits(self, call: Call, request: InferRequest | None = None) -> dict[Source, str]:
        """Return the traits of a request; a tenant in a header is not changed by the body."""
        traits = dict(call.traits) if call.traits else {}
        if call.standing.tenant:
            traits.setdefault(TENANT, call.standing.tenant)
        traits.setdefault(REQUEST, call.request_id)
        if request is not None and request.parameters:
            for name in self._parameters:
                if value := trait(request.parameters.get(name, "")):
                    traits.setdefault(PARAMETER + name, value)
            if value := trait(request.parameters.get(TENANT, "")):
                traits.setdefault(TENANT, value)
            if id := request.parameters.get("sequence_id"):
                traits.setdefault(SEQUENCE, f"sequence:{trait(id)}")
        return traits
