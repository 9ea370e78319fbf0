"""Whose outcome is known for good, and how far has an experiment come?

An outcome takes time: who was exposed yesterday may convert tomorrow. Counting "not yet" as "no" makes an
arm that converts sooner look better than it is. Only units whose window has closed enter a look, whatever
they have done up to now, and the look's information is theirs alone. Pure: times are numbers of one unit,
seconds as a rule.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

Floats = npt.NDArray[np.float64]


class Matured(NamedTuple):
    """What may be looked at.

    Attributes:
        units: Which ones have matured, shape ``(unit,)`` of bool.
        hits: Which of all had their event inside the window, of the same shape; says nothing of others.
        time: The part of the planned units that has matured: the time of a group sequential test.
    """

    units: npt.NDArray[np.bool_]
    hits: npt.NDArray[np.bool_]
    time: float


def matured(
    exposed: npt.ArrayLike,
    happened: npt.ArrayLike,
    watermark: float,
    window: float,
    planned: int,
    delay: float = 0.0,
) -> Matured:
    """The units of a look.

    Args:
        exposed: When each unit was exposed first, shape ``(unit,)``.
        happened: When its event was, of the same shape; infinite or NaN for none that is known.
        watermark: Up to when outcomes have come in, all of them.
        window: How long after exposure an event counts.
        planned: Units of the whole experiment.
        delay: From exposure to the window's beginning.

    Raises:
        InvalidInput: The shapes differ, or a length is out of its range.
    """
    since, until = np.asarray(exposed, np.float64), np.asarray(happened, np.float64)
    if since.shape != until.shape or not (window > 0 and delay >= 0 and planned >= 1):
        raise InvalidInput(
            f"{since.size} exposures, {until.size} events, a window of {window} after {delay}: cannot be",
            fix="Give an event for each exposure, a window above 0 and a delay of 0 or more.",
        )
    opens, closes = since + delay, since + delay + window
    units = closes <= watermark
    return Matured(units, (until >= opens) & (until < closes), float(units.sum()) / planned)
