"""How does a new version meet traffic? The words: splits, arms, exposures, counts, verdicts.

A *release* is one attempt to put a *canary* version in the place of the *stable* one. A *unit* is who is
assigned, once and for all: a user, a session, a tenant; in its absence a request. Records only: who is
assigned where is ``experiments/``' question, what counts prove is ``rollout/``'s.
"""

import enum
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput


class Arm(enum.StrEnum):
    """Whom a unit is compared with.

    Attributes:
        CANARY: It meets the new version.
        BASELINE: It meets the old one, in a share as large as the canary's, which it is matched with.
        STABLE: It meets the old one.
        HOLDBACK: It meets the old one for as long as the release lasts, and after its promotion.
    """

    CANARY = "canary"
    BASELINE = "baseline"
    STABLE = "stable"
    HOLDBACK = "holdback"


#: The arms that are compared, in the order of :class:`Counts`.
ARMS: Final = (Arm.CANARY, Arm.BASELINE, Arm.STABLE)
#: Why a unit is in its arm, where that is by chance alone, so that it counts as evidence. Those held back are
#: of the control from the first stage on, and all of it once the canary has everything else.
COUNTED: Final = frozenset({"hash", "holdback"})
#: Where something is known of a request from: ``header:x-user-id`` (gRPC: metadata of that name),
#: ``parameter:user``, ``tenant``, or ``request`` (its id, so that each request is a unit).
Source = str
#: Of a bucket in which nobody came: who counts does not know at which stage.
NO_STAGE: Final = -1
HEADER, PARAMETER, TENANT, REQUEST = "header:", "parameter:", "tenant", "request"
#: Behind a metric's name, in the counts: of answers in which it found nothing to look at.
UNSEEN: Final = ".unseen"
#: Known of requests of a sequence, and the unit of those that say nothing else of themselves.
SEQUENCE: Final = "sequence"
_MOST_CHARACTERS: Final = 256
_NUMBERS: Final = hashlib.blake2b(digest_size=8, key=b"number of a unit")


def trait(value: object) -> str:
    """A value as the name of a unit: what is very long is digested, so that what is kept is bounded.

    >>> trait(True), trait(7), len(trait("x" * 100_000))
    ('true', '7', 40)
    """
    if type(value) is str and len(value) <= _MOST_CHARACTERS:
        return value
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) <= _MOST_CHARACTERS:
        return text
    return "blake2b:" + hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def unit_number(unit: str) -> int:
    """What is kept of a unit's name: 64 bits with a sign, the same for ever and in every release.

    Keyed BLAKE2b (RFC 7693); it has nothing to do with the hash that assigns arms.

    >>> unit_number("ada") == unit_number("ada") != unit_number("bo")
    True
    """
    return int(unit_numbers((unit,))[0])


def unit_numbers(units: Iterable[str]) -> npt.NDArray[np.int64]:
    """The numbers of many; shape ``(n,)``."""
    digests, copy = [], _NUMBERS.copy
    for unit in units:
        hasher = copy()
        hasher.update(unit.encode("utf-8", "surrogatepass"))
        digests.append(hasher.digest())
    return np.frombuffer(b"".join(digests), "<i8")


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds for requests of which ``source`` tells one of these values."""

    source: Source
    values: tuple[str, ...]


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that another version is asked, too, whose answers nobody gets.

    Attributes:
        share: Of the units, from 0 to 1.
        most_inflight: Copies under way at one time; what comes beyond is not copied, and counted.
        compare: How its answers are held against the caller's (features/releases/experiments/compare.py).
        tolerance: Most distance of answers that are alike; of ``tolerance``: most absolute or relative
            difference of each number. Of ``exact`` and ``distribution`` without effect.
    """

    share: float = 1.0
    most_inflight: int = 8
    compare: Literal["exact", "tolerance", "ranking", "prefix", "length", "distribution"] = "tolerance"
    tolerance: float = 1e-3


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an owner says of a release's split, once and for all; see :class:`Split`."""

    units: tuple[Source, ...] = ("header:x-user-id", "parameter:user", "tenant", "request")
    layer: str = ""
    slice: tuple[float, float] = (0.0, 1.0)
    only: tuple[Condition, ...] = ()
    always: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    holdback: float = 0.0
    shadow: Shadow | None = None

    def __post_init__(self) -> None:
        check_traffic(self)


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who meets which version of a model, while a release lasts. Requests that name a version are not split.

    Attributes:
        release: Its id.
        weight: Share of units that meet the canary, from 0 to 1; of those that are not held back.
        salt: Of the hash; a release keeps its own, so that nobody leaves the canary as it grows.
        stage: Number of the stage, from 0 on.
        asked: What those callers say for a version that are split: nothing (empty), or the label or alias
            that the release moves.
        units: Where the unit's name is looked for, first one first; ``request`` is what is left.
        layer: Releases of one layer share no units; empty = it has its units for itself.
        slice: Of a layer: those units whose place in it lies in [first, last).
        only: Who takes part at all: all conditions hold. Others meet the stable version, and do not count.
        always, never: Units that meet the canary, or the stable version, whatever the weight.
        holdback: Share of units that keep the stable version, from 0 to 1.
        shadow: None = nothing is copied. With a weight of 0 it is all that the canary sees.
        is_watched: What the versions answer is looked at (features/releases/experiments/outputs.py).
    """

    release: str
    model: str
    stable: str
    canary: str
    weight: float
    salt: str
    stage: int = 0
    asked: tuple[str, ...] = ("",)
    units: tuple[Source, ...] = ("header:x-user-id", "parameter:user", "tenant", "request")
    layer: str = ""
    slice: tuple[float, float] = (0.0, 1.0)
    only: tuple[Condition, ...] = ()
    always: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    holdback: float = 0.0
    shadow: Shadow | None = None
    is_watched: bool = False


def check_traffic(said: Traffic | Split) -> None:
    """Does it make sense, whatever else is split?

    Raises:
        InvalidInput: it does not; the message names the field, as a policy has it.
    """
    shares = {"holdback": said.holdback}
    if said.shadow is not None:
        shares["shadow.share"] = said.shadow.share
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InvalidInput(
                f"{name} is {share}, no share", field=f"traffic.{name}", fix="Give a part of 1."
            )
    first, last = said.slice
    if not 0 <= first < last <= 1 or (said.slice != (0, 1) and not said.layer):
        raise InvalidInput(
            f"the slice {list(said.slice)} is no part of a layer",
            field="traffic.slice",
            fix="Name the layer, and two places of [0, 1] in it, the lower one first.",
        )
    for source in (*said.units, *(condition.source for condition in said.only)):
        kind, colon, name = source.partition(":")
        if not (source in (TENANT, REQUEST) or (kind + colon in (HEADER, PARAMETER) and name)):
            raise InvalidInput(
                f"'{source}' is no source of units",
                field="traffic.units",
                fix="Say header:NAME, parameter:NAME, tenant or request.",
            )
        if kind + colon == HEADER and name != name.lower():
            raise InvalidInput(
                f"the name of the header in '{source}' has capital letters",
                field="traffic.units",
                fix=f"Write {source.lower()}; it is found however callers write it.",
            )
    if not said.units or said.units[-1] != REQUEST:
        raise InvalidInput(
            "there is no unit for requests that say nothing of themselves",
            field="traffic.units",
            fix="Let 'request' be the last one.",
        )


class Assignment(msgspec.Struct, frozen=True, eq=False):
    """Where requests are sent, and why. All that are alike may share one, so that they are told apart, and
    counted, by its identity.

    Attributes:
        reason: ``hash``, or what went before it. What counts as evidence: :data:`COUNTED`.
        propensity: Probability of the canary for a unit that counts.
        has_unit: False = there was no name but the request's own.
    """

    release: str
    arm: Arm
    version: str
    reason: Literal["hash", "always", "never", "excluded", "holdback"]
    propensity: float
    stage: int
    has_unit: bool = True


class Counts(msgspec.Struct, frozen=True):
    """How often something happened in each arm."""

    canary: int = 0
    baseline: int = 0
    stable: int = 0

    @property
    def control(self) -> int:
        """In both arms that meet the stable version."""
        return self.baseline + self.stable

    @property
    def total(self) -> int:
        """In all arms."""
        return self.canary + self.baseline + self.stable


class Sums(msgspec.Struct, frozen=True):
    """Of what units of an arm brought, as money: enough for their mean, its error, and what their past tells.

    Attributes:
        units: How many.
        events: Those that brought anything.
        total, squares, cubes: Of the first three powers of each unit's value.
        past, past_squares: Of what each brought before it was exposed, and of its square.
        products: Of each one's value and past.
    """

    units: int = 0
    events: int = 0
    total: float = 0.0
    squares: float = 0.0
    cubes: float = 0.0
    past: float = 0.0
    past_squares: float = 0.0
    products: float = 0.0


class Matured(msgspec.Struct, frozen=True):
    """Outcomes of units that were exposed together, and are old enough for theirs to be known.

    Attributes:
        metric: Its name.
        exposed: Unix seconds, the latest exposure of them.
        share: The canary's, when they were exposed.
        units: All of them, by the arm in which they were exposed.
        events: Those in whom it happened.
        sums: Of what they brought, the canary's and its control's; of a metric that counts, none.
    """

    metric: str
    exposed: float
    share: float
    units: Counts
    events: Counts
    sums: tuple[Sums, Sums] = (Sums(), Sums())


class Copies(msgspec.Struct, frozen=True):
    """What a canary made of copies, of which nobody gets the answers; a unit counts once, for the worst.

    Attributes:
        asked: All of them.
        differed: Its answer is not alike.
        failed: It gave none.
        slower: It gave one, and took longer than the stable version had taken.
    """

    asked: int = 0
    differed: int = 0
    failed: int = 0
    slower: int = 0


_N = TypeVar("_N", Counts, Sums, Copies)


def plus(some: _N, more: _N) -> _N:
    """Both together, each number by itself.

    >>> plus(Counts(1, 2), Counts(stable=3))
    Counts(canary=1, baseline=2, stable=3)
    """
    pairs = zip(msgspec.structs.astuple(some), msgspec.structs.astuple(more), strict=True)
    return type(some)(*(one + other for one, other in pairs))


class Bucket(msgspec.Struct, frozen=True):
    """What was seen of a release in a stretch of time, ten seconds as a rule.

    Attributes:
        start: Unix seconds.
        seconds: Its length.
        share: The canary's share of all arms that was in force: the chance that the next unit is its.
        requests: All of them.
        exposures: Units that were seen for the first time.
        events: By metric, units (or, without units, requests) in which it happened for the first time.
        raw: By metric, all requests in which it happened; a latency that was not measured yet is not there.
        outcomes: That matured in it, of exposures long before.
        late_seconds: By how much what is posted later lags behind: everything older has come.
        copies: That were answered in it (features/releases/shadow.py).
        in_hour, in_stage: As ``events``, for the first time in this hour, and at this stage. A metric that is
            not there is as in ``events``.
    """

    start: float
    seconds: float
    stage: int
    share: float
    requests: Counts = Counts()
    exposures: Counts = Counts()
    events: Mapping[str, Counts] = msgspec.field(default_factory=dict)
    raw: Mapping[str, Counts] = msgspec.field(default_factory=dict)
    outcomes: tuple[Matured, ...] = ()
    late_seconds: float = 0.0
    copies: Copies = Copies()
    in_hour: Mapping[str, Counts] = msgspec.field(default_factory=dict)
    in_stage: Mapping[str, Counts] = msgspec.field(default_factory=dict)


#: Fields of a bucket whose events are the first ones of units.
FIRSTS: Final = ("events", "in_hour", "in_stage")


def first_in(metric: str, field: str, number: int) -> str:
    """Name of the first events of a metric in one hour, or at one stage.

    >>> [kept_in(name) for name in ("errors", first_in("errors", "in_hour", 7))]
    [('errors', 'events', 0), ('errors', 'in_hour', 7)]
    """
    return f"{metric}{_IN}{field}{_IN}{number}"


def hour_of(seconds: float) -> int:
    """Of Unix seconds, counted from 1970 on: the same for all servers."""
    return int(seconds // 3600)


def kept_in(first: str) -> tuple[str, str, int]:
    """The metric of such a name, the field of a bucket that counts it, and of which hour or stage."""
    metric, *rest = first.split(_IN)
    return (metric, rest[0], int(rest[1])) if rest else (metric, "events", 0)


_IN: Final = "\x1f"  # no name of a metric has it, as it cannot be read


class Met(msgspec.Struct, frozen=True, eq=False):
    """Units, each in the arm in which something was seen of it, column by column: arrays of shape ``(n,)``.

    Attributes:
        units: Their numbers (:func:`unit_number`), int64; names are not kept.
        arms: Their places in :data:`ARMS`, uint8.
        times: Unix seconds, float64.
    """

    units: npt.NDArray[np.int64]
    arms: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """How many."""
        return len(self.units)


class Exposures(Met, frozen=True, eq=False):
    """Units that meet an arm of a release for the first time.

    Attributes:
        are_first: 1 = the unit had met no other arm before, else 0, uint8. As a canary grows, units move
            there that had.
    """

    are_first: npt.NDArray[np.uint8]


class Predictions(Met, frozen=True, eq=False):
    """Requests whose outcomes may be posted by their ids.

    Attributes:
        units: Of a request without a unit, its own number.
        requests: Numbers of their ids (:func:`unit_number`).
    """

    requests: npt.NDArray[np.int64]


def _none(dtype: type[Any]) -> npt.NDArray[Any]:
    return np.empty(0, dtype)


_NOBODY: Final = (_none(np.int64), _none(np.uint8), _none(np.float64))
NO_EXPOSURES: Final = Exposures(*_NOBODY, _none(np.uint8))
NO_PREDICTIONS: Final = Predictions(*_NOBODY, _none(np.int64))


class Seen(msgspec.Struct, frozen=True, eq=False):
    """All that was seen of a release in a bucket, of its stage and share; what belongs together is written
    together.

    Attributes:
        exposures: Of units; requests without one are in the bucket's counts alone.
        firsts: By metric, or :func:`first_in`, units in which it happened for the first time.
        predictions: All requests, of a release whose policy asks for outcomes.
        heard: Up to what units that other servers have met were known when the first of these was taken for a
            new one (:attr:`salver.features.releases.distinct_units.Crowd.last`).
    """

    release: str
    bucket: Bucket
    exposures: Exposures = NO_EXPOSURES
    firsts: Mapping[str, Met] = msgspec.field(default_factory=dict)
    predictions: Predictions = NO_PREDICTIONS
    heard: int = 0

    @property
    def rows(self) -> int:
        """So many units, happenings and requests."""
        return len(self.exposures) + len(self.predictions) + sum(map(len, self.firsts.values()))


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What became of a request or a unit, as somebody posts it later.

    Attributes:
        id: Given by the caller; the same outcome posted twice counts once.
        name: Of the metric.
        request, unit: Whose it is, one of both: the request's id, or the unit's name. Without either it says
            that all outcomes of this name up to its time have been posted.
        value: Any number up to 1e100, either way.
        time: Unix seconds, when it happened; None = now.
        source: Who knows of it.
        supersedes: Id of the outcome that it corrects; empty = none.
    """

    id: str
    name: str
    request: str = ""
    unit: str = ""
    value: float | None = None
    time: float | None = None
    source: str = ""
    supersedes: str = ""


class Refused(msgspec.Struct, frozen=True):
    """An outcome that was not taken, and why; the others were."""

    id: str
    why: str


class Receipt(msgspec.Struct, frozen=True):
    """What was done with posted outcomes. It is given when all of that is on disk.

    Attributes:
        accepted: Taken now.
        duplicates: That were there already, the same.
        unmatched: Ids of those taken now whose request or unit no release has met that is not over and asks
            for outcomes. They are kept, and count once it is known: a server writes down whom it has met
            every ten seconds.
        refused: Wrong ones, which will be refused again.
    """

    accepted: int = 0
    duplicates: int = 0
    unmatched: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


class ReleaseState(enum.StrEnum):
    """The life of a release (features/releases/judge/states.py holds the moves)."""

    PROPOSED = "PROPOSED"
    RUNNING = "RUNNING"
    HELD = "HELD"
    PAUSED = "PAUSED"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"
