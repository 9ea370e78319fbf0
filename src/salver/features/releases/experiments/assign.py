"""Assignment of units to arms.

Rules in order: units that never or always get the canary; conditions and the slice of a layer; the holdback;
then the hash. Pure: it stores nothing, and knows no model and no clock.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeVar

from salver.stats.assignment import bound, fraction, hashing
from salver.words.errors import InvalidInput
from salver.words.releases import HEADER, REQUEST, SEQUENCE, Arm, Assignment, Source, Split, check_traffic

#: Salts of other decisions than the arm, so that they are independent of it.
_HOLDBACK, _SHADOW = "holdback:", "shadow:"

# constants, because enum member lookup is slow
_CANARY, _BASELINE, _STABLE = Arm.CANARY, Arm.BASELINE, Arm.STABLE
_NOTHING: Final[Mapping[Source, str]] = MappingProxyType({})

Reason = Literal["hash", "always", "never", "excluded", "holdback"]
_T = TypeVar("_T")


def assign(split: Split, traits: Mapping[Source, str]) -> Assignment:
    """Return the assignment of a request with these traits.

    Args:
        split: A split accepted by :func:`check`.
        traits: Values of the request by source; always includes its own id, as ``request``.

    >>> split = Split("r", "m", stable="1", canary="2", weight=0.25, salt="s")
    >>> assign(split, {"header:x-user-id": "ada", "request": "1"}).arm
    <Arm.BASELINE: 'baseline'>
    """
    unit, has_unit = unit_of(split, traits)
    return assigned(split, *placed(split, unit, traits), has_unit=has_unit)


def unit_of(split: Split, traits: Mapping[Source, str]) -> tuple[str, bool]:
    """Return the unit of a request, and whether it has a name other than the request's own."""
    for source in split.units:
        if source in traits:
            if source == REQUEST and SEQUENCE in traits:
                return traits[SEQUENCE], True
            return traits[source], source != REQUEST
    return "", False


def assigned(split: Split, arm: Arm, reason: Reason, *, has_unit: bool) -> Assignment:
    """Return the assignment of units in an arm."""
    version = split.stable
    if arm is _CANARY:
        version = split.canary
    share = split.weight * (1 - split.holdback)
    return Assignment(split.release, arm, version, reason, share, split.stage, has_unit, split.turn)


def placed(split: Split, unit: str, traits: Mapping[Source, str] = _NOTHING) -> tuple[Arm, Reason]:
    """Return the arm of a unit and the reason.

    Args:
        traits: Other values, if the split has conditions.
    """
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


def drawn(split: Split, canary: _T, baseline: _T, stable: _T) -> Callable[[str], _T] | None:
    """Return a function from a unit to its assignment if only the hash matters, else None."""
    if split.never or split.always or split.only or split.layer or split.holdback:
        return None
    hashed, end, begin = hashing(split.salt), bound(split.weight), bound(1 - split.weight)

    def of(unit: str) -> _T:
        number = hashed(unit)
        if number < end:
            return canary
        if number >= begin:
            return baseline
        return stable

    return of


def is_shadowed(split: Split, unit: str) -> bool:
    """Return whether requests of this unit to the stable version are copied to the canary."""
    shadow = split.shadow
    if shadow is None or shadow.share <= 0:
        return False
    return shadow.share >= 1 or fraction(_SHADOW + split.salt, unit) < shadow.share


def is_told(split: Split, traits: Mapping[Source, str]) -> bool:
    """Return whether the traits suffice, or the body could change the assignment.

    A body may contain parameters, including the tenant. Headers are known before it is read.
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
    """Check that these splits can be in force together.

    Raises:
        InvalidInput: one is invalid, or two claim the same units.
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
                    f"releases '{other.release}' and '{split.release}' claim the same units",
                    field="slice" if shared else "model",
                    fix="Give them slices of one layer that do not overlap, or end one of them.",
                )
        known.append(split)


def _check_alone(split: Split) -> None:
    if not 0 <= split.weight <= 1:
        raise InvalidInput(f"weight of release '{split.release}' is {split.weight}, no share", field="weight")
    if split.stable == split.canary:
        raise InvalidInput(f"both versions of release '{split.release}' are {split.stable}", field="canary")
    try:
        check_traffic(split)
    except InvalidInput as error:
        raise InvalidInput(
            f"release '{split.release}': {error.message}", field=error.field, fix=error.fix
        ) from None


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])
