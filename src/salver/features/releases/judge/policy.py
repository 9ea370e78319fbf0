"""Policy of a release: stages, metrics, limits and rules.

Settings with their defaults, stored as JSON with each release and evaluated in ``judge.py``. The defaults
suit a service with ten requests per second or more: ``outlook.py`` shows what they detect in a given traffic.
"""

import math
import re
from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

from salver.features.releases.judge.rules import Rule
from salver.features.releases.judge.shadowing import Alike
from salver.words.errors import InvalidInput
from salver.words.releases import Shadow, Traffic

#: What a metric counts: answers that failed; that missed their deadline; that do not match a schema; that
#: came from a fallback; that break a rule; that were slower than a quantile of the stable version, taken at
#: the start and again after large changes; that fall into a bin; outcomes that callers posted later. And
#: ``mean``: posted values summed per unit. ``resource``: what a version needs for its requests.
Kind = Literal[
    "errors", "timeouts", "invalid", "fallbacks", "rule", "latency", "output", "outcome", "mean", "resource"
]
#: Counted regardless of the policy, by kind (features/releases/experiments/happenings.py): ``rejected`` are
#: requests that a version found invalid, ``refused`` those that exceeded its capacity. Resources are measured
#: (features/releases/experiments/resources.py): seconds in the model and of CPU time by request, and resident
#: bytes by process.
COUNTED: Final[Mapping[str, tuple[str, ...]]] = {
    "errors": ("errors", "rejected", "refused"),
    "timeouts": ("timeouts",),
    "fallbacks": ("fallbacks",),
    "resource": ("run_time", "cpu", "memory"),
}
#: Aggregate of each row of an output: each number, the first, the last, their sum, mean or maximum, or the
#: index of the maximum; for texts each one, or its length; for other outputs the number of rows.
Take = Literal["each", "first", "last", "sum", "mean", "max", "argmax", "length"]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of the traffic, and the evidence needed there.

    Attributes:
        weight: Fraction of units that get the canary, in (0, 1]. 0 = a first stage in which it answers only
            copies (``traffic.shadow``) and the comparison is the gate.
        minutes: Minimum duration, without the warm-up.
        sample: Maximum requests to the canary: if its metrics are not proven to be within their margins by
            then, the release is held as inconclusive, or continues if it may ship on its budget. 0 = no
            limit.
        margin_times: Factor of the gate's margins over those of the metrics; a small stage has enough traffic
            only to detect gross harm.
    """

    weight: float
    minutes: float
    sample: int = 0
    margin_times: float = 1.0


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metric of which the canary may not have more than its control (or less, see ``worse``).

    Attributes:
        name: Key in the counts of a bucket; bins of an output are ``NAME.0``, ``NAME.1`` and so on.
        severity: ``severe``: evidence against the whole control causes a rollback, from the first bucket.
            ``soft``: only together with evidence against the matched baseline, and not during the warm-up.
        rollback_margin: Tolerated excess of the canary's rate, as a fraction of the control's.
        promotion_margin: Excess that must be ruled out before each step; None = the metric is not a gate.
        negligible: Rate of events below which the canary passes, regardless of the control's. Without it a
            metric without events could prove nothing. For ``latency`` it is at least the rate of the stable
            version when its quantile was taken, plus the promotion margin.
        share: Part of alpha for this metric; 0 = an equal part of the remainder.
        quantile: For ``latency``: answers slower than this quantile of the stable version are slow.
        bins: For ``output``: number of quantile bins of the stable version's numbers, fixed at the start of
            the release.
        output: For ``output``, ``rule`` and ``invalid``: name of the output; empty = all floating-point
            outputs. For texts, the stable version's most frequent ones have bins of their own, and all others
            the last one.
        take: Aggregate of each row.
        least, most: For ``rule`` and ``invalid``: numbers outside this range, or not finite, are events. For
            ``outcome``: values within this range, or without limits those above 0, are events.
        worse: Direction of harm: ``less`` for sales, clicks and revenue.
        matures_minutes: For ``outcome`` and ``mean``: minutes after an exposure until its outcome is known.
        cap: For ``mean``: limit on the absolute value of a unit's sum.
        ceiling: Rate of events, of the canary or of its control, above which the release is held; 0 = none.
    """

    name: str
    kind: Kind
    severity: Literal["severe", "soft"]
    rollback_margin: float = 0.0
    promotion_margin: float | None = 0.5
    negligible: float = 0.0
    share: float = 0.0
    quantile: float = 0.0
    bins: int = 10
    output: str = ""
    take: Take = "each"
    least: float | None = None
    most: float | None = None
    worse: Literal["more", "less"] = "more"
    matures_minutes: float = 0.0
    cap: float = 0.0
    ceiling: float = 0.0

    def __post_init__(self) -> None:
        for wrong, field, what, fix in (*self._faults_of_rates, *self._faults_of_kind):
            if wrong:
                raise InvalidInput(f"metric '{self.name}': {what}", field=field, fix=fix)

    @property
    def _faults_of_rates(self) -> tuple[tuple[bool, str, str, str], ...]:
        """Return what may be wrong with its name, rates and shares: whether it is, field, text and fix."""
        return (
            (
                not (self.name and self.name.isprintable()),
                "name",
                "it has no name that can be read",
                "Name it, in letters that can be read.",
            ),
            (
                not 0 <= self.rollback_margin < (1 if self.worse == "less" else math.inf),
                "rollback_margin",
                f"its rollback margin is {self.rollback_margin}",
                "Give 0 or more; below 1 where less is worse.",
            ),
            (
                self.promotion_margin is not None and not 0 < self.promotion_margin < math.inf,
                "promotion_margin",
                f"its promotion margin is {self.promotion_margin}",
                "Give a number above 0 (that it is no worse at all cannot be proven), or none for no gate.",
            ),
            (not 0 <= self.negligible < 1, "negligible", f"its negligible rate is {self.negligible}", _PART),
            (
                self.negligible > 0 and not self.is_counted,
                "negligible",
                f"of '{self.kind}' no rate is negligible",
                "Leave it out.",
            ),
            (not 0 <= self.share <= 1, "share", f"its share of alpha is {self.share}", _PART),
            (
                not 0 <= self.ceiling < 1 or (self.ceiling > 0 and not self.is_counted),
                "ceiling",
                f"its ceiling is {self.ceiling}",
                "Give a part of 1, or leave it out; outputs and outcomes have none.",
            ),
        )

    @property
    def _faults_of_kind(self) -> tuple[tuple[bool, str, str, str], ...]:
        """Return the same of what only some kinds have."""
        return (
            (
                (self.kind == "latency") != (0 < self.quantile < 1),
                "quantile",
                f"its quantile is {self.quantile}",
                "Latencies have one between 0 and 1, and nothing else has.",
            ),
            (
                self.kind == "output" and not 2 <= self.bins <= _MOST_BINS,
                "bins",
                f"it has {self.bins} bins",
                f"Give 2 to {_MOST_BINS}.",
            ),
            (
                (bool(self.output) or self.take != "each") and not self.is_of_outputs,
                "output" if self.output else "take",
                f"'{self.kind}' looks at no output",
                "Outputs, rules and invalid answers do.",
            ),
            (
                self._bounds_are_wrong,
                "least",
                f"its bounds are {self.least} and {self.most}",
                "Give finite ones that grow, to a rule, to invalid answers or to an outcome.",
            ),
            (
                self.kind == "resource" and self.severity == "severe",
                "severity",
                "a resource is severe",
                "Say soft: minutes of a few processes are compared, and a pause needs failures.",
            ),
            (
                self.matures_minutes < 0 or (self.matures_minutes > 0 and not self.is_posted),
                "matures_minutes",
                f"it matures after {self.matures_minutes} minutes",
                "Only outcomes mature; give 0 or more.",
            ),
            (
                self.worse == "less" and not self.is_posted,
                "worse",
                f"less of '{self.kind}' is not worse",
                "Only outcomes may be good.",
            ),
            (
                not 0 < self.cap <= _MOST_CAP if self.kind == "mean" else self.cap != 0,
                "cap",
                f"its cap is {self.cap}",
                f"Give a mean the most that one unit's sum may count, above 0 and up to {_MOST_CAP:g}, and "
                "nothing else one.",
            ),
            (
                self.kind == "mean" and self.worse == "less" and (self.promotion_margin or 0.0) >= 1,
                "promotion_margin",
                f"its promotion margin is {self.promotion_margin}",
                "Give less than 1 where less is worse: no mean falls by more than all of it.",
            ),
        )

    def negligible_at(self, times: float) -> float:
        """Return the rate below which the canary passes a gate with that margin factor; 0 = none."""
        rate = self.negligible * times
        if self.kind == "latency" and self.promotion_margin is not None:
            rate = max(rate, (1 - self.quantile) * (1 + self.promotion_margin * times))
        return min(rate, _MOST_NEGLIGIBLE)

    @property
    def is_counted(self) -> bool:
        """Return whether it is known immediately, and its events are failures of units and processes."""
        return not self.is_posted and self.kind not in ("output", "resource")

    @property
    def is_posted(self) -> bool:
        """Return whether it is known from posted outcomes."""
        return self.kind in ("outcome", "mean")

    @property
    def is_of_outputs(self) -> bool:
        """Return whether it is known from a version's outputs."""
        return self.kind in ("output", "rule", "invalid")

    @property
    def _bounds_are_wrong(self) -> bool:
        given = [bound for bound in (self.least, self.most) if bound is not None]
        has_use = self.kind in ("rule", "invalid", "outcome")
        return bool(given) and (not has_use or not all(map(math.isfinite, given)) or sorted(given) != given)

    @property
    def is_matched(self) -> bool:
        """Return whether only the matched baseline is compared, because load affects the metric."""
        return self.kind == "latency"


_HALF = 0.5
_MOST_NEGLIGIBLE = 0.5  # maximum margin factor of a stage
#: Evidence has two strands per bin and is written after each bucket; for values also cubes are summed.
_MOST_BINS, _MOST_CAP = 100, 1e15
_MOST_SAMPLE = 10**15
#: Minimum seconds of a bucket, to limit the load of the ledger.
_LEAST_BUCKET, _MOST_BUCKET = 0.1, 86_400.0
#: Days that units of a release are kept after its end.
MOST_DAYS = 30.0  # for late outcomes
_PART = "Give a number from 0 to 1."

DEFAULT_STAGES = (
    Stage(0.01, 10, sample=2_000, margin_times=4),
    Stage(0.05, 30, sample=10_000, margin_times=2),
    Stage(0.25, 60, sample=50_000),
    Stage(1.0, 0),
)

DEFAULT_METRICS = (
    Metric("errors", "errors", "severe", negligible=0.001, ceiling=0.1),
    Metric("timeouts", "timeouts", "severe", negligible=0.001, ceiling=0.1),
    Metric("invalid", "invalid", "severe", negligible=0.001, ceiling=0.1),
    Metric("fallbacks", "fallbacks", "soft", rollback_margin=0.1, negligible=0.001),
    Metric("latency_p99", "latency", "soft", rollback_margin=0.25, quantile=0.99),
    # Callers' own mistakes affect all versions equally and are not a gate; a version that is stricter is.
    Metric("rejected", "errors", "severe", promotion_margin=None, share=0.05),
    Metric("refused", "errors", "soft", rollback_margin=0.1, promotion_margin=None, share=0.05),
)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings by which a release is judged.

    Attributes:
        stages: Stages with increasing weights.
        metrics: Metrics, which share alpha.
        alpha: Probability that a harmless release is rolled back, over all metrics, stages and looks.
        beta: Probability, for each gate, that a release worse by the margin passes it.
        split_alpha: Probability that a correct split is reported as broken.
        ships_on_budget: A complete sample is sufficient if there is no evidence against the canary.
        warm_up_seconds: Seconds at the start of a stage that do not count for soft metrics and gates.
        bucket_seconds: Length of a bucket of counts.
        no_data_seconds: Seconds without a request to the canary, or to its control, after which it is held.
        most_late_seconds: Maximum delay of outcomes before it is held.
        hold_minutes: Maximum duration of a hold.
        after_hold: Action then. ``by_severity``: it is rolled back if a severe metric is not proven harmless
            or copies differ, and waits for a person otherwise.
        watch_days: Days after promotion during which it is still compared with the units held back and late
            outcomes count. Another release ends that, too. 0 = none.
        after_promotion: Action on harm proven after promotion. ``by_severity``: a severe metric causes a
            rollback, a soft one is reported for a person to decide.
        immediate: The new version gets all traffic immediately, and is compared only with the units held
            back.
        rules: Business rules (features/releases/judge/rules.py).
        alike: Required agreement of copies at a first stage without weight.
        traffic: Participants and units of the split; not used by the judge.
    """

    stages: tuple[Stage, ...] = DEFAULT_STAGES
    metrics: tuple[Metric, ...] = DEFAULT_METRICS
    alpha: float = 0.01
    beta: float = 0.05
    split_alpha: float = 0.001
    ships_on_budget: bool = False
    warm_up_seconds: float = 120.0
    bucket_seconds: float = 10.0
    no_data_seconds: float = 300.0
    most_late_seconds: float = 3600.0
    hold_minutes: float = 1440.0
    after_hold: Literal["by_severity", "rollback", "wait"] = "by_severity"
    watch_days: float = 14.0
    after_promotion: Literal["by_severity", "rollback", "wait"] = "by_severity"
    immediate: bool = False
    rules: tuple[Rule, ...] = ()
    alike: Alike = Alike()
    traffic: Traffic = Traffic()

    def __post_init__(self) -> None:
        _check_stages(self.stages, self.traffic.shadow)
        _check_metrics(self.metrics)
        _check_holdback(self.traffic.holdback, self.stages)
        for name in ("alpha", "beta", "split_alpha"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}", field=name, fix="Give a probability in (0, 1)."
                )
        if not _LEAST_BUCKET <= self.bucket_seconds <= _MOST_BUCKET:
            raise InvalidInput(
                f"bucket_seconds is {self.bucket_seconds}",
                field="bucket_seconds",
                fix=f"Give seconds from {_LEAST_BUCKET:g} to {_MOST_BUCKET:g}.",
            )
        for name in ("no_data_seconds", "hold_minutes"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}", field=name, fix="Give a number above 0."
                )
        if self.watch_days > MOST_DAYS:
            raise InvalidInput(
                f"watch_days is {self.watch_days}", field="watch_days", fix=f"Give {MOST_DAYS:g} at most."
            )
        for name in ("warm_up_seconds", "most_late_seconds", "watch_days"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidInput(f"{name} is {getattr(self, name)}", field=name, fix="Give 0 or more.")

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the parts of alpha, one per metric, with a sum of at most 1."""
        given = math.fsum(metric.share for metric in self.metrics)
        silent = sum(not metric.share for metric in self.metrics)
        return tuple(metric.share or (1 - given) / silent for metric in self.metrics)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Policy":
        """Parse a stored policy.

        Raises:
            InvalidInput: It is not a valid policy; the message names the field.
        """
        try:
            return _read_policy(text)
        except msgspec.MsgspecError as error:
            raise InvalidInput(
                f"this is not a valid release policy: {error}", fix=_fix(str(error), cls)
            ) from error

    def to_json(self) -> bytes:
        """Return JSON with all fields, so that stored policies do not change with the defaults."""
        return msgspec.json.encode(self)


_read_policy: Final = msgspec.json.Decoder(Policy).decode


def _fix(error: str, policy: type["Policy"]) -> str:
    """Return the allowed fields or values for an error of msgspec."""
    place = re.sub(r"\[\d+\]", "", error.partition("`$.")[2].rstrip("`"))
    kinds: dict[str, type[msgspec.Struct]] = {
        "": policy,
        "stages": Stage,
        "metrics": Metric,
        "traffic": Traffic,
        "alike": Alike,
    }
    if "field" in error and place in kinds:
        return f"Fields: {', '.join(kinds[place].__struct_fields__)}."
    parent, _, field = place.rpartition(".")
    known = {each.name: each.type for each in msgspec.structs.fields(kinds.get(parent, policy))}
    if "enum" in error and (values := get_args(known.get(field))):
        return f"Say one of: {', '.join(values)}."
    if place == "rules.type":
        return f"Say one of: {', '.join(str(rule.__struct_config__.tag) for rule in get_args(Rule))}."
    return "See the reference of policies."


def _check_stages(stages: tuple[Stage, ...], shadow: Shadow | None) -> None:
    weights = [stage.weight for stage in stages]
    if not stages or sorted(set(weights)) != weights or not 0 <= weights[0] <= weights[-1] <= 1:
        raise InvalidInput(
            f"the stages have the weights {weights}",
            field="stages",
            fix="Let them grow, above 0 and up to 1.",
        )
    if not weights[0] and (shadow is None or not shadow.share or len(stages) == 1):
        raise InvalidInput(
            "the first stage has no weight, and there is nothing to be seen of the canary",
            field="stages[0].weight",
            fix="Say in traffic.shadow what it is to answer, too, and let a stage with weight follow.",
        )
    for index, stage in enumerate(stages):
        is_right = 0 <= stage.minutes < math.inf and 0 < stage.margin_times < math.inf
        if not (is_right and 0 <= stage.sample <= _MOST_SAMPLE):
            raise InvalidInput(
                f"stages[{index}] lasts {stage.minutes} minutes, for {stage.sample} requests, at "
                f"{stage.margin_times} times the margins",
                field=f"stages[{index}]",
                fix=f"Give 0 or more minutes, requests up to {_MOST_SAMPLE:.0e}, and a factor above 0.",
            )


def _check_holdback(holdback: float, stages: tuple[Stage, ...]) -> None:
    if holdback >= 1:
        raise InvalidInput("all units are held back", field="traffic.holdback", fix="Give less than 1.")
    for index, stage in enumerate(stages):
        if stage.weight > _HALF >= stage.weight * (1 - holdback):
            raise InvalidInput(
                f"stages[{index}] has {stage.weight:.2%} of those that are not held back: more than half of "
                "them, and not of all, beside which no baseline is as large",
                field=f"stages[{index}]",
                fix=f"Give {_HALF:g}, or more than {_HALF / (1 - holdback):.4g}.",
            )


def _check_metrics(metrics: tuple[Metric, ...]) -> None:
    names = [metric.name for metric in metrics]
    keys = [*names, *(f"{m.name}.{bin}" for m in metrics if m.kind == "output" for bin in range(m.bins))]
    if not metrics or len(set(keys)) != len(keys):
        raise InvalidInput(
            f"the metrics are {names}",
            field="metrics",
            fix="Name one or more, each once, and none as a bin of an output (its name, a dot and a number).",
        )
    given = math.fsum(metric.share for metric in metrics)
    silent = sum(not metric.share for metric in metrics)
    if given > 1 + 1e-9 or (silent and given >= 1):
        raise InvalidInput(
            f"the shares of alpha have the sum {given:g}, and {silent} metrics have none",
            field="metrics",
            fix="Let them have the sum 1 at most, less than that where a metric has none of its own.",
        )
