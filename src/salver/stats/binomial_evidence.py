"""Sequential test of whether the canary has too many events, compared with its control.

A conditional binomial e-process (Lindon & Malek, NeurIPS 2022). Of ``e`` events in a bucket ``x`` are the
canary's, which holds a share ``w`` of the units; under the null they are ``Binomial(e, w)`` whatever the rate
of events, so daily cycles, common incidents and changes of the share have no effect, and evidence is never
reset. The null may be rejected at any time when ``log_e >= log(1 / alpha)``; if true, it is rejected with
probability at most ``alpha``.

Knows only counts: the caller ensures that events are independent (count the first of each unit). Pure.
"""

import math
from collections.abc import Sequence
from typing import Literal, Self

import msgspec
import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

#: Alternatives: ratios of the canary's rate to the largest rate under the null, and to the control's rate.
HARM = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
NO_HARM = (1.0, 0.9, 0.75)

#: Null hypothesis: the ratio of the canary's rate to the control's is at most, or at least, 1 + margin.
Null = Literal["at_most", "at_least"]
Floats = npt.NDArray[np.float64]


class BinomialEvidence(msgspec.Struct, frozen=True):
    """Evidence of counts against the null; plain data, updated by copying.

    Args:
        null: ``at_most``: the canary is within the margin; :func:`harm` is evidence against it. ``at_least``:
            it is worse by the margin or more; :func:`no_harm` is evidence against it.
        alternatives: Ratios of rates to bet on; for ``at_most`` as multiples of 1 + margin, above 1; for
            ``at_least`` as multiples of the control's rate, below 1 + margin.
        log_sums: Log likelihood ratio of each alternative.

    >>> evidence = harm().add(4, 4, share=0.01)  # four errors, and all of them the canary's
    >>> evidence.log_e > math.log(1 / 0.002)
    True
    """

    null: Null
    alternatives: tuple[float, ...]
    log_sums: tuple[float, ...]

    def add(self, canary_events: int, events: int, share: float, margin: float = 0.0) -> Self:
        """Add a bucket.

        Args:
            canary_events: Events of the canary.
            events: Events of canary and control together.
            share: The canary's share of the units in this bucket, planned or realised, in [0, 1].
            margin: Tolerated excess of the canary's rate, as a fraction of the control's; above -1.

        Raises:
            InvalidInput: Impossible counts, or a margin at which an alternative is part of the null.
        """
        _check(self, canary_events, events, share, margin)
        log_ratios, shift = _ratios(self.null, self.alternatives, margin)
        # Given their sum, events are binomial; this is the canary's chance at the edge of the null.
        boundary = share * shift / (share * shift + 1 - share)
        return msgspec.structs.replace(
            self,
            log_sums=tuple(
                float(total + canary_events * log - events * math.log1p(boundary * math.expm1(log)))
                for total, log in zip(self.log_sums, log_ratios, strict=True)
            ),
        )

    @property
    def log_e(self) -> float:
        """Return the log e-value, the mean over the alternatives; 0 before the first event."""
        # Relative to the largest, or exp() would overflow for strong evidence.
        top = max(self.log_sums)
        mean = math.fsum(math.exp(total - top) for total in self.log_sums) / len(self.log_sums)
        return top + math.log(mean)


def harm(alternatives: Sequence[float] = HARM) -> BinomialEvidence:
    """Return empty evidence that the canary is worse than its margin, for rollbacks."""
    return _start("at_most", alternatives)


def no_harm(alternatives: Sequence[float] = NO_HARM) -> BinomialEvidence:
    """Return empty evidence that the canary is within its margin, for promotions."""
    return _start("at_least", alternatives)


def log_e_paths(
    start: BinomialEvidence,
    canary_events: npt.ArrayLike,
    events: npt.ArrayLike,
    share: npt.ArrayLike,
    margin: float = 0.0,
) -> Floats:
    """Return ``log_e`` after each bucket of many replications, for simulations.

    Args:
        start: The evidence before the first bucket.
        canary_events: Shape ``(replication, bucket)``.
        events: That of ``canary_events``, or one that broadcasts to it.
        share: Likewise.
        margin: As in :meth:`BinomialEvidence.add`.

    Returns:
        Shape ``(replication, bucket)``.
    """
    canary, total, part = (np.asarray(values, np.float64) for values in (canary_events, events, share))
    log_ratios, shift = _ratios(start.null, start.alternatives, margin)
    boundary = part * shift / (part * shift + 1 - part)
    log_e = np.full(np.broadcast_shapes(canary.shape, total.shape, part.shape), -np.inf)
    for before, log in zip(start.log_sums, log_ratios, strict=True):
        steps = canary * log - total * np.log1p(boundary * math.expm1(log))
        np.logaddexp(log_e, before + np.cumsum(steps, axis=-1), out=log_e)
    return log_e - math.log(len(log_ratios))


def _start(null: Null, alternatives: Sequence[float]) -> BinomialEvidence:
    if len(alternatives) == 0 or not all(0 < ratio < math.inf for ratio in alternatives):
        raise InvalidInput(
            f"the alternatives {list(alternatives)} are not ratios of rates",
            fix="Name one or more numbers above 0.",
        )
    return BinomialEvidence(null, tuple(map(float, alternatives)), (0.0,) * len(alternatives))


def _ratios(null: Null, alternatives: Sequence[float], margin: float) -> tuple[list[float], float]:
    """Return the logs of the alternatives as multiples of the null's boundary, and the boundary."""
    shift = 1 + margin
    if null == "at_most":
        return [math.log(ratio) for ratio in alternatives], shift
    return [math.log(ratio / shift) for ratio in alternatives], shift


def _check(evidence: BinomialEvidence, canary: int, events: int, share: float, margin: float) -> None:
    if not (0 <= canary <= events < math.inf and 0 <= share <= 1 and -1 < margin < math.inf):
        raise InvalidInput(
            f"{canary} canary events of {events} at a share of {share} and a margin of {margin} cannot be",
            fix="Give counts of 0 or more, a share from 0 to 1 and a margin above -1.",
        )
    # Otherwise the likelihood would be 0 under any hypothesis, and the evidence not a number.
    if (canary and share == 0) or (canary < events and share == 1):
        raise InvalidInput(
            f"an arm without units has events: {canary} of {events} are the canary's, whose share is {share}",
            fix="Count events in the bucket of the share under which their units were assigned.",
        )
    ratios = evidence.alternatives
    if not (min(ratios) > 1 if evidence.null == "at_most" else max(ratios) < 1 + margin):
        raise InvalidInput(
            f"the alternatives {list(ratios)} are not alternatives to '{evidence.null} 1 + {margin}'",
            fix="To 'at_most' they lie above 1; to 'at_least' below 1 + margin, so its margin is above 0.",
        )
