"""Units whose outcome is final, and the progress of an experiment.

An outcome takes time: a unit exposed yesterday may convert tomorrow. Counting "not yet" as "no" makes an arm
with faster conversion look better than it is. Only units whose window has closed enter a look, whatever they
have done so far, and they alone determine the look's information. Pure: times are numbers of one unit,
usually seconds.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from salver.words.errors import InvalidInput

Floats = npt.NDArray[np.float64]


class MaturedUnits(NamedTuple):
    """Data for a look.

    Attributes:
        units: Mask of matured units, shape ``(unit,)`` of bool.
        hits: Mask of units with an event inside the window, of the same shape; meaningless for others.
        time: Fraction of the planned units that have matured: the time of a group sequential test.
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
) -> MaturedUnits:
    """Return the matured units of a look.

    Args:
        exposed: Time of each unit's first exposure, shape ``(unit,)``.
        happened: Time of its event, of the same shape; infinite or NaN = none known.
        watermark: Time up to which all outcomes are known.
        window: Time after exposure during which an event counts.
        planned: Units of the whole experiment.
        delay: Time from exposure to the start of the window.

    Raises:
        InvalidInput: The shapes differ, or a length is out of range.
    """
    since, until = np.asarray(exposed, np.float64), np.asarray(happened, np.float64)
    if since.shape != until.shape or not (window > 0 and delay >= 0 and planned >= 1):
        raise InvalidInput(
            f"{since.size} exposures, {until.size} events, a window of {window} after {delay}: cannot be",
            fix="Give an event for each exposure, a window above 0 and a delay of 0 or more.",
        )
    opens, closes = since + delay, since + delay + window
    units = closes <= watermark
    return MaturedUnits(units, (until >= opens) & (until < closes), float(units.sum()) / planned)
