"""Records of releases: splits, arms, exposures, counts, outcomes.

A *release* is one attempt to replace the *stable* version by a *canary* version. A *unit* is what is assigned
to an arm, permanently: a user, a session, a tenant, or else a single request. Assignment is decided in
``features/releases/experiments/``, verdicts in ``features/releases/judge/``.
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
    """Groups of units that a release compares.

    Attributes:
        CANARY: Gets the new version.
        BASELINE: Gets the old version, with a share equal to the canary's, against which it is compared.
        STABLE: Gets the old version.
        HOLDBACK: Gets the old version for the whole release and after its promotion.
    """

    CANARY = "canary"
    BASELINE = "baseline"
    STABLE = "stable"
    HOLDBACK = "holdback"


#: The arms that are compared, in the order of :class:`Counts`.
ARMS: Final = (Arm.CANARY, Arm.BASELINE, Arm.STABLE)
#: Reasons for an assignment that is by chance alone, so that the unit counts as evidence. Units held back
#: count as control from the first stage on, and are all of it once the canary has everything else.
COUNTED: Final = frozenset({"hash", "holdback"})
#: Source of a request's trait: ``header:x-user-id`` (gRPC: metadata of that name), ``parameter:user``,
#: ``tenant``, or ``request`` (its id, so that each request is a unit).
Source = str
#: Stage of a bucket without exposures, where it is unknown.
NO_STAGE: Final = -1
HEADER, PARAMETER, TENANT, REQUEST = "header:", "parameter:", "tenant", "request"
#: Suffix of a metric's name in the counts: answers without anything to measure.
UNSEEN: Final = ".unseen"
#: Source for requests of a sequence, and the unit of those without another trait.
SEQUENCE: Final = "sequence"
_MOST_CHARACTERS: Final = 256
_NUMBERS: Final = hashlib.blake2b(digest_size=8, key=b"number of a unit")


def trait(value: object) -> str:
    """Convert a value to the name of a unit; very long ones are hashed, so that storage is bounded.

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
    """Return the stored number of a unit's name: signed 64 bits, the same in every release.

    Keyed BLAKE2b (RFC 7693), independent of the hash that assigns arms.

    >>> unit_number("ada") == unit_number("ada") != unit_number("bo")
    True
    """
    return int(unit_numbers((unit,))[0])


def unit_numbers(units: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return the numbers of many names, shape ``(n,)``."""
    digests, copy = [], _NUMBERS.copy
    for unit in units:
        hasher = copy()
        hasher.update(unit.encode("utf-8", "surrogatepass"))
        digests.append(hasher.digest())
    return np.frombuffer(b"".join(digests), "<i8")


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Condition on requests: the trait from ``source`` is one of these values."""

    source: Source
    values: tuple[str, ...]


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shadow traffic: copies of requests sent to another version, whose answers are discarded.

    Attributes:
        share: Fraction of units, 0 to 1.
        most_inflight: Maximum concurrent copies; further requests are counted but not copied.
        compare: How answers are compared with the caller's (features/releases/experiments/compare.py).
        tolerance: Maximum distance of matching answers; for ``tolerance``, maximum absolute or relative
            difference of each number. Unused for ``exact`` and ``distribution``.
    """

    share: float = 1.0
    most_inflight: int = 8
    compare: Literal["exact", "tolerance", "ranking", "prefix", "length", "distribution"] = "tolerance"
    tolerance: float = 1e-3


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fixed part of a release's split, set by its owner; see :class:`Split`."""

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
    """Current split of a model's traffic between versions. Requests that name a version are not split.

    Attributes:
        release: Id of the release.
        weight: Fraction of units that get the canary, 0 to 1, among those not held back.
        salt: Salt of the hash, constant for a release, so that no unit leaves the canary as it grows.
        stage: Number of the stage, from 0.
        turn: How often the judge has taken the traffic away.
        asked: Version in the requests that are split: empty, or the label or alias that the release moves.
        units: Sources of the unit's name, in order of preference; ``request`` is the fallback.
        layer: Releases in one layer share no units; empty = no layer.
        slice: Part of the layer: units whose position lies in [first, last).
        only: Conditions for taking part, which must all hold. Other units get the stable version and do not
            count.
        always, never: Units that get the canary, or the stable version, regardless of the weight.
        holdback: Fraction of units that keep the stable version, 0 to 1.
        shadow: Shadow traffic; None = none. With a weight of 0 it is the canary's only traffic.
        is_watched: The outputs of the versions are analysed (features/releases/experiments/outputs.py).
    """

    release: str
    model: str
    stable: str
    canary: str
    weight: float
    salt: str
    stage: int = 0
    turn: int = 0
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
    """Check that the settings are consistent.

    Raises:
        InvalidInput: they are not; the message names the field of the policy.
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
            f"the slice {list(said.slice)} is not a part of a layer",
            field="traffic.slice",
            fix="Name the layer, and two places of [0, 1] in it, the lower one first.",
        )
    for source in (*said.units, *(condition.source for condition in said.only)):
        kind, colon, name = source.partition(":")
        if not (source in (TENANT, REQUEST) or (kind + colon in (HEADER, PARAMETER) and name)):
            raise InvalidInput(
                f"'{source}' is not a source of units",
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
            "there is no unit for requests without any of the sources",
            field="traffic.units",
            fix="Let 'request' be the last one.",
        )


class Assignment(msgspec.Struct, frozen=True, eq=False):
    """Version and reason of an assignment. Equal ones may share an object; counted by identity.

    Attributes:
        reason: ``hash``, or what took precedence over it. :data:`COUNTED` lists what counts as evidence.
        propensity: Probability of the canary for a unit that counts.
        has_unit: False = the only name was the request's own.
        turn: See :class:`Split`.
    """

    release: str
    arm: Arm
    version: str
    reason: Literal["hash", "always", "never", "excluded", "holdback"]
    propensity: float
    stage: int
    has_unit: bool = True
    turn: int = 0


class Counts(msgspec.Struct, frozen=True):
    """Number of occurrences in each arm."""

    canary: int = 0
    baseline: int = 0
    stable: int = 0

    @property
    def control(self) -> int:
        """Return the count of both arms with the stable version."""
        return self.baseline + self.stable

    @property
    def total(self) -> int:
        """Return the count of all arms."""
        return self.canary + self.baseline + self.stable


class Sums(msgspec.Struct, frozen=True):
    """Sums of the values of units in an arm, for the mean, its error and its correlation with the past.

    Attributes:
        units: Number of units.
        events: Units with any value.
        total, squares, cubes: Sums of the first three powers of each unit's value.
        past, past_squares: Sums of each unit's value before exposure, and of its square.
        products: Sum of the products of value and past.
    """

    units: int = 0
    events: int = 0
    total: float = 0.0
    squares: float = 0.0
    cubes: float = 0.0
    past: float = 0.0
    past_squares: float = 0.0
    products: float = 0.0


class OutcomeCohort(msgspec.Struct, frozen=True):
    """Outcomes of units exposed together, old enough for their outcomes to be known.

    Attributes:
        metric: Name of the metric.
        exposed: Unix seconds of the latest exposure.
        share: The canary's share at exposure.
        units: Units by the arm of their exposure.
        events: Units with the event.
        sums: Sums of values, of the canary and its control; none for a metric that counts.
    """

    metric: str
    exposed: float
    share: float
    units: Counts
    events: Counts
    sums: tuple[Sums, Sums] = (Sums(), Sums())


class Copies(msgspec.Struct, frozen=True):
    """Results of shadow requests; a unit counts once, with its worst result.

    Attributes:
        asked: Number of copies.
        differed: The answers do not match.
        failed: The canary gave no answer.
        slower: The canary answered, but took longer than the stable version.
    """

    asked: int = 0
    differed: int = 0
    failed: int = 0
    slower: int = 0


_N = TypeVar("_N", Counts, Sums, Copies)


def plus(some: _N, more: _N) -> _N:
    """Add two counts field by field.

    >>> plus(Counts(1, 2), Counts(stable=3))
    Counts(canary=1, baseline=2, stable=3)
    """
    pairs = zip(msgspec.structs.astuple(some), msgspec.structs.astuple(more), strict=True)
    return type(some)(*(one + other for one, other in pairs))


class RecentRequests(msgspec.Struct, frozen=True):
    """Requests and failures of the last few buckets, for a pause.

    The window is four buckets, and up to twelve while the canary has fewer than five requests in it. It
    begins with the stage, or when traffic returned after a pause. Several servers count each for itself, and
    what they count in four buckets is added up.

    Attributes:
        requests: Requests of the window.
        failures: Requests with the event.
        units: Units with a request.
        failing: Units with the event in at least three quarters of their requests.
        buckets: Number of buckets in the window.
        failed_buckets: Buckets in which a request to the canary had the event.
        short: The last four buckets of a longer window, which count if there are several servers.
    """

    requests: Counts = Counts()
    failures: Counts = Counts()
    units: Counts = Counts()
    failing: Counts = Counts()
    buckets: int = 0
    failed_buckets: int = 0
    short: "RecentRequests | None" = None


#: Number of buckets, of the length that the policy gives, in a block of time.
BLOCK_BUCKETS: Final = 6
#: Failing blocks of a unit that are told apart; later ones are counted together.
MOST_BLOCKS: Final = 13
#: Fraction of a unit's requests that have the event if the unit fails.
MOSTLY: Final = 0.75
#: Buckets of :class:`RecentRequests`: usually, at most, and the requests to the canary that are enough.
RECENT_BUCKETS: Final = 4
MOST_RECENT_BUCKETS: Final = 12
ENOUGH_RECENT: Final = 5


class Spent(msgspec.Struct, frozen=True):
    """Amount of a resource, and the number of requests or processes that have used it."""

    amount: float = 0.0
    units: int = 0


class ResourceUse(msgspec.Struct, frozen=True):
    """Resource that the canary and the stable version have used in an interval."""

    canary: Spent = Spent()
    stable: Spent = Spent()


class MetricPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counts of one metric by one of several servers, as in :class:`Bucket`."""

    raw: Counts = Counts()
    events: Counts = Counts()
    blocks: tuple[Counts, ...] = ()


class ServerPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """Part of a bucket that one of several servers counted.

    Attributes:
        requests: Its requests.
        metrics: What it counted, where requests to the canary, or many to its control, failed.
    """

    server: str
    requests: Counts = Counts()
    metrics: Mapping[str, MetricPart] = msgspec.field(default_factory=dict)


#: Failed requests of an arm of one server in a bucket, and their fraction, that are a burst of its
#: process; the same of a block.
BUCKET_BURST: Final = (3, 0.25)
BLOCK_BURST: Final = (2, 0.2)


def is_burst(failures: int, requests: int, least: tuple[int, float]) -> bool:
    """Return whether so many requests failed that a process did, rather than some of its users.

    >>> is_burst(3, 12, BUCKET_BURST), is_burst(2, 12, BLOCK_BURST)
    (True, False)
    """
    return failures >= least[0] and failures >= least[1] * requests


class Bucket(msgspec.Struct, frozen=True):
    """Observations of a release in an interval, usually ten seconds.

    Attributes:
        start: Unix seconds.
        seconds: Length of the interval.
        share: The canary's share of all arms: the probability that the next unit is assigned to it.
        requests: Number of requests.
        exposures: Units seen for the first time.
        events: By metric, units (or, without units, requests) with their first event.
        raw: By metric, all requests with the event; latencies not yet measured are missing.
        outcomes: Outcomes that matured in the interval, from earlier exposures.
        late_seconds: Delay of posted outcomes: everything older has arrived.
        copies: Shadow requests answered in the interval (features/releases/shadow.py).
        in_stage: Like ``events``, for first events of bins within this stage. Metrics that are missing equal
            those in ``events``.
        met: Units seen for the first time in this stage; fewer than ``exposures``: it was not counted.
        blocks: By metric, in place *k* - 1 the units whose *k*-th block with the event, of this stage, has it
            for the first time in this bucket; the last of :data:`MOST_BLOCKS` places is for all later ones. A
            block is :data:`BLOCK_BUCKETS` buckets of the clock. Metrics that are missing have ``events`` in
            the first place.
        lately: By metric, the last few buckets, while at least half of the canary's requests have the event.
        parts: What each of several servers counted; empty = one server counted all of it.
        resources: By metric, what the versions have used, where it is known of both.
    """

    start: float
    seconds: float
    stage: int
    share: float
    requests: Counts = Counts()
    exposures: Counts = Counts()
    events: Mapping[str, Counts] = msgspec.field(default_factory=dict)
    raw: Mapping[str, Counts] = msgspec.field(default_factory=dict)
    outcomes: tuple[OutcomeCohort, ...] = ()
    late_seconds: float = 0.0
    copies: Copies = Copies()
    in_stage: Mapping[str, Counts] = msgspec.field(default_factory=dict)
    met: Counts = Counts()
    blocks: Mapping[str, tuple[Counts, ...]] = msgspec.field(default_factory=dict)
    lately: Mapping[str, RecentRequests] = msgspec.field(default_factory=dict)
    parts: tuple[ServerPart, ...] = ()
    resources: Mapping[str, ResourceUse] = msgspec.field(default_factory=dict)

    @property
    def new_units(self) -> Counts:
        """Return the units that are new to the stage; if it was not counted, those new to the release."""
        return Counts(*map(max, msgspec.structs.astuple(self.met), msgspec.structs.astuple(self.exposures)))


#: Fields of a bucket that hold first events of units.
FIRSTS: Final = ("events", "in_stage")


def first_in(metric: str, field: str, number: int) -> str:
    """Return the name of a metric's first events at one stage.

    >>> [kept_in(name) for name in ("score.0", first_in("score.0", "in_stage", 2))]
    [('score.0', 'events', 0), ('score.0', 'in_stage', 2)]
    """
    return f"{metric}{_IN}{field}{_IN}{number}"


def kept_in(first: str) -> tuple[str, str, int]:
    """Return the metric of such a name, the bucket field that counts it, and the stage."""
    metric, *rest = first.split(_IN)
    if rest:
        return (metric, rest[0], int(rest[1]))
    return (metric, "events", 0)


_IN: Final = "\x1f"  # no metric has this name, because it cannot be parsed


class UnitObservations(msgspec.Struct, frozen=True, eq=False):
    """Units, each with the arm of an observation, in columns: arrays of shape ``(n,)``.

    Attributes:
        units: Numbers of the units (:func:`unit_number`), int64; names are not stored.
        arms: Indices into :data:`ARMS`, uint8.
        times: Unix seconds, float64.
    """

    units: npt.NDArray[np.int64]
    arms: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.units)


class Exposures(UnitObservations, frozen=True, eq=False):
    """Units exposed to an arm of a release for the first time.

    Attributes:
        are_first: 1 = the unit had not been in another arm before, else 0, uint8. As a canary grows, units
            from other arms move to it.
    """

    are_first: npt.NDArray[np.uint8]


class Predictions(UnitObservations, frozen=True, eq=False):
    """Requests whose outcomes may be posted by request id.

    Attributes:
        units: Numbers of the units; without a unit, the request's own number.
        requests: Numbers of the request ids (:func:`unit_number`).
    """

    requests: npt.NDArray[np.int64]


def _none(dtype: type[Any]) -> npt.NDArray[Any]:
    return np.empty(0, dtype)


_NOBODY: Final = (_none(np.int64), _none(np.uint8), _none(np.float64))
NO_UNITS: Final = UnitObservations(*_NOBODY)
NO_EXPOSURES: Final = Exposures(*_NOBODY, _none(np.uint8))
NO_PREDICTIONS: Final = Predictions(*_NOBODY, _none(np.int64))


class BucketObservations(msgspec.Struct, frozen=True, eq=False):
    """Everything observed of a release in a bucket, with its stage and share; written in one transaction.

    Attributes:
        exposures: Of units; requests without a unit are only in the bucket's counts.
        firsts: By metric, or :func:`first_in`, units with their first event.
        predictions: All requests, for a release whose policy needs outcomes.
        met: Units seen for the first time in this stage, after the first one.
        failing: By metric, units with the event, possibly repeated.
        heard: Position up to which units of other servers were known when the first of these was counted as
            new (:attr:`salver.features.releases.distinct_units.DistinctUnits.last`).
    """

    release: str
    bucket: Bucket
    exposures: Exposures = NO_EXPOSURES
    firsts: Mapping[str, UnitObservations] = msgspec.field(default_factory=dict)
    predictions: Predictions = NO_PREDICTIONS
    heard: int = 0
    met: UnitObservations = NO_UNITS
    failing: Mapping[str, UnitObservations] = msgspec.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Return the number of units, events and requests."""
        units = len(self.exposures) + len(self.met) + len(self.predictions)
        return units + sum(map(len, self.firsts.values())) + sum(map(len, self.failing.values()))


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Outcome of a request or a unit, posted later.

    Attributes:
        id: Chosen by the caller; an outcome posted twice counts once.
        name: Name of the metric.
        request, unit: Either the request's id or the unit's name. Without both, it states that all outcomes
            of this name up to its time have been posted.
        value: A number with an absolute value of at most 1e100.
        time: Unix seconds of the event; None = now.
        source: Source of the outcome.
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
    """Rejected outcome with the reason; the others were accepted."""

    id: str
    why: str


class Receipt(msgspec.Struct, frozen=True):
    """Result of posting outcomes. It is returned when everything is on disk.

    Attributes:
        accepted: Number of new outcomes.
        duplicates: Number of outcomes that were already stored.
        unmatched: Ids of new outcomes whose request or unit is unknown to every active release that needs
            outcomes. They are stored and count once it is known: servers record exposures every ten seconds.
        refused: Invalid outcomes; posting them again will not help.
    """

    accepted: int = 0
    duplicates: int = 0
    unmatched: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


class ReleaseState(enum.StrEnum):
    """States of a release (features/releases/judge/states.py holds the transitions)."""

    PROPOSED = "PROPOSED"
    RUNNING = "RUNNING"
    HELD = "HELD"
    PAUSED = "PAUSED"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"
