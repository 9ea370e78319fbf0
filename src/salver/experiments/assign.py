"""Which arm is this unit in?

Rules in their order: who is never or always to meet the canary; who takes part at all (conditions, the slice
of a layer); who is held back; and then the hash. Pure: it keeps nothing, and knows no model and no clock.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal

from salver.errors import InvalidInput
from salver.releases import Arm, Assignment, Source, Split
from salver.stats.assignment import fraction

HEADER: Final = "header:"
PARAMETER: Final = "parameter:"
TENANT: Final = "tenant"
REQUEST: Final = "request"
#: Salts of other questions than "which arm", so that their answers are independent of it.
_HOLDBACK, _SHADOW = "holdback:", "shadow:"

_CANARY, _BASELINE, _STABLE = Arm.CANARY, Arm.BASELINE, Arm.STABLE  # to look them up in an enum takes time
_NOTHING: Final[Mapping[Source, str]] = MappingProxyType({})

_Reason = Literal["hash", "always", "never", "excluded", "holdback"]


def assign(split: Split, traits: Mapping[Source, str]) -> Assignment:
    """Where a request goes of which these things are known.

    Args:
        split: One that :func:`check` found no fault with.
        traits: What is known of the request, by source; always its own id, as ``request``.

    >>> split = Split("r", "m", stable="1", canary="2", weight=0.25, salt="s")
    >>> assign(split, {"header:x-user-id": "ada", "request": "1"}).arm
    <Arm.BASELINE: 'baseline'>
    """
    for source in split.units:
        if source in traits:
            return assigned_to(split, traits[source], traits, has_unit=source != REQUEST)
    return assigned_to(split, "", traits, has_unit=False)


def assigned_to(
    split: Split, unit: str, traits: Mapping[Source, str] = _NOTHING, *, has_unit: bool = True
) -> Assignment:
    """Where a unit is sent, of which its name is known.

    Args:
        traits: What else is known, where the split has conditions.
    """
    arm, reason = _placed(split, unit, traits)
    version = split.canary if arm is _CANARY else split.stable
    return Assignment(split.release, arm, version, unit, reason, split.weight, split.stage, has_unit)


def _placed(split: Split, unit: str, traits: Mapping[Source, str]) -> tuple[Arm, _Reason]:
    if unit in split.never:
        return _STABLE, "never"
    if unit in split.always:
        return _CANARY, "always"
    for condition in split.only:
        if traits.get(condition.source) not in condition.values:
            return _STABLE, "excluded"
    if split.layer:
        first, last = split.slice
        if not first <= fraction(split.layer, unit) < last:
            return _STABLE, "excluded"
    if split.holdback and fraction(_HOLDBACK + split.salt, unit) < split.holdback:
        return Arm.HOLDBACK, "holdback"
    place, weight = fraction(split.salt, unit), split.weight
    if place < weight:
        return _CANARY, "hash"
    return (_BASELINE if place >= 1 - weight else _STABLE), "hash"


def is_shadowed(split: Split, unit: str) -> bool:
    """Is the canary asked, too, what this unit asks the stable version?"""
    shadow = split.shadow
    if shadow is None or shadow.share <= 0:
        return False
    return shadow.share >= 1 or fraction(_SHADOW + split.salt, unit) < shadow.share


def is_told(split: Split, traits: Mapping[Source, str]) -> bool:
    """Do the traits suffice, or could the body of the request say more that matters?

    A body may bring parameters, the tenant among them. Headers are known before it is read.
    """
    for condition in split.only:
        if condition.source not in traits and not condition.source.startswith(HEADER):
            return False
    for source in split.units:
        if source in traits:
            return True
        if not source.startswith(HEADER):
            return False
    return True


def check(splits: Iterable[Split]) -> None:
    """Can they be in force together?

    Raises:
        InvalidInput: one makes no sense, or two want the same units.
    """
    known: list[Split] = []
    for split in splits:
        _check_alone(split)
        for other in known:
            if split.release == other.release:
                raise InvalidInput(f"there are two splits of release '{split.release}'", field="release")
            shared = split.layer == other.layer != "" and _overlap(split.slice, other.slice)
            same = split.model == other.model and not set(split.asked).isdisjoint(other.asked)
            if shared or (same and (split.layer != other.layer or not split.layer)):
                raise InvalidInput(
                    f"releases '{other.release}' and '{split.release}' want the same units",
                    field="slice" if shared else "model",
                    fix="Give them slices of one layer that do not overlap, or end one of them.",
                )
        known.append(split)


def _check_alone(split: Split) -> None:
    shares = {"weight": split.weight, "holdback": split.holdback}
    if split.shadow is not None:
        shares["shadow.share"] = split.shadow.share
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InvalidInput(f"{name} of release '{split.release}' is {share}, no share", field=name)
    first, last = split.slice
    if not 0 <= first < last <= 1 or (split.slice != (0, 1) and not split.layer):
        raise InvalidInput(
            f"the slice of release '{split.release}' is {list(split.slice)}, no part of a layer",
            field="slice",
            fix="Name the layer, and two places of [0, 1] in it, the lower one first.",
        )
    if split.stable == split.canary:
        raise InvalidInput(f"both versions of release '{split.release}' are {split.stable}", field="canary")
    for source in (*split.units, *(condition.source for condition in split.only)):
        kind, colon, name = source.partition(":")
        if not (source in (TENANT, REQUEST) or (kind + colon in (HEADER, PARAMETER) and name)):
            raise InvalidInput(
                f"release '{split.release}' looks for units in '{source}', which is no source",
                field="units",
                fix="Say header:NAME, parameter:NAME, tenant or request.",
            )
        if kind + colon == HEADER and name != name.lower():
            raise InvalidInput(f"the name of the header in '{source}' has capital letters", field="units")
    if not split.units or split.units[-1] != REQUEST:
        raise InvalidInput(
            f"release '{split.release}' has no unit for requests that say nothing of themselves",
            field="units",
            fix="Let 'request' be the last one.",
        )


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])
