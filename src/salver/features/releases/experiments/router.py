"""Which requests are split, and what has to be known of them?

The table of splits in force, replaced as a whole. Finding a model in it costs one look, and a unit that was
seen lately another one.
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

_MOST_KNOWN: Final = 32_768  # units a model whose plans are kept: some four megabytes


class Plan(msgspec.Struct, frozen=True, eq=False):
    """Where requests of a model in a release go; all that are alike share one.

    Attributes:
        route: That it is of.
        split: The one that it is in.
        assignment: None = not known before its parameters are read.
        versions: Whom to ask, and whom else if that one is not ready.
        is_watched: What is answered is to be looked at.
        may_want: Is one of the next two.
        is_shadowed: The canary is to be asked, too, what the stable version has answered.
    """

    route: "Route"
    split: Split
    assignment: Assignment | None
    versions: tuple[str, ...]
    may_want: bool = False
    is_shadowed: bool = False
    is_watched: bool = False


class Route:
    """The splits of a model, for those who say the same for a version.

    Args:
        splits: Of one layer, if there are several.
    """

    def __init__(self, splits: tuple[Split, ...]) -> None:
        one = splits[0]
        self.splits = splits
        self._open = Plan(self, one, None, (one.stable,))
        self._plans: dict[tuple[str, Arm, Reason, bool, bool], Plan] = {}
        self._known: dict[str, Plan] = {}
        is_plain = len(splits) == 1 and not one.only
        #: The source that settles everything, if a request tells it.
        self._first = one.units[0] if is_plain and one.units[0] != REQUEST else ""
        its = (self._plan(one, "", arm, "hash") for arm in (Arm.CANARY, Arm.BASELINE, Arm.STABLE))
        self._drawn = drawn(one, *its) if one.shadow is None else None

    def __repr__(self) -> str:
        return f"<Route of {', '.join(split.release for split in self.splits)}>"

    def recall(self, call: Call) -> Plan | None:
        """The plan of a unit that the first source names, where nothing else matters; None = look closer.

        As the other ones do, it notes the unit in the call.
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
        """Of a request whose body is not read yet: an open one where that may change it.

        Args:
            traits: What is known of it, always its own id.
        """
        for split in self.splits:
            if not is_told(split, traits):
                return self._open
        return self.settled(call, traits)

    def settled(self, call: Call, traits: Mapping[Source, str]) -> Plan:
        """Into the release that does not exclude it, else to the first one's stable version.

        Args:
            traits: All that is known of the request, always its own id.
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
    """The splits by model and by what callers say for a version."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], Route] = {}
        self._parameters: tuple[str, ...] = ()
        #: Headers that somebody wants to know of each request, with the source that each is; lower case.
        self.headers: Mapping[bytes, Source] = {}

    def __repr__(self) -> str:
        return f"<Router of {', '.join(':'.join(key) for key in self._table) or 'nothing'}>"

    def __bool__(self) -> bool:
        return bool(self._table)

    def replace(self, splits: Sequence[Split]) -> None:
        """From now on these are in force, and no others.

        Raises:
            InvalidInput: they cannot be; then those from before stay.
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
        """For requests that say this for a version; None = they are not split."""
        return self._table.get((model, asked))

    def traits(self, call: Call, request: InferRequest | None = None) -> dict[Source, str]:
        """What is known of a request; of a header that names the tenant its body changes nothing."""
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
