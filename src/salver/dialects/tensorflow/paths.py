"""Grammar of TensorFlow Serving's paths (TF-R1 to TF-R7, TF-R28), with KServe's ``:explain``.

It covers all paths below ``/v1/``, in upper or lower case, with names still encoded. A name has neither
``/`` nor ``:``; one of OpenAI's may have slashes, and is searched among known names.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from salver.words.errors import InvalidInput

#: Operations of the paths.
OPERATIONS: Final = frozenset(
    ("model_v1", "metadata_v1", "predict_v1", "classify_v1", "regress_v1", "explain_v1")
)
#: Operations that run a model.
INFERRING: Final = OPERATIONS - {"model_v1", "metadata_v1"}
#: Limit of a compressed body after inflation in bytes (TF-R23), if no lower limit is set.
MOST_INFLATED: Final = 100 << 20
_WHICH: Final = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_HOW: Final = rf"{_WHICH}:(classify|regress|predict|explain)"
_WHAT: Final = rf"{_WHICH}(/metadata)?"
_FLAGS: Final = re.IGNORECASE | re.ASCII
_ASKING: Final = re.compile(rf"/v1/models/([^/:]+){_HOW}", _FLAGS)
_LOOKING: Final = re.compile(rf"/v1/models(?:/([^/:]+))?{_WHAT}", _FLAGS)
_ENDS: Final = {"POST": re.compile(_HOW, _FLAGS), "GET": re.compile(_WHAT, _FLAGS)}
_METHOD: Final = re.compile(r"/v1/models/.+:(classify|regress|predict|explain)", _FLAGS)
_MODELS: Final = "/v1/models/"
_MOST: Final = (1 << 63) - 1


class PathMatch(NamedTuple):
    """Operation and names in a path: ``model`` and ``label`` encoded, ``version`` without leading zeros.

    The model is empty if its name may have slashes.
    """

    operation: str
    model: str = ""
    version: str = ""
    label: str = ""


def is_below_v1(path: bytes) -> bool:
    """Return whether a path is TensorFlow Serving's unless another dialect has it."""
    return path[:4].lower() == b"/v1/"


def find(verb: str, path: str) -> PathMatch:
    """Return the operation of a path.

    Raises:
        InvalidInput: There is none; the text is TensorFlow Serving's.

    >>> find("POST", "/V1/models/m/versions/007:Predict")
    PathMatch(operation='predict_v1', model='m', version='7', label='')
    """
    if verb == "OPTIONS":
        return PathMatch("options_v1")
    if verb == "POST":
        if found := _ASKING.fullmatch(path):
            return _asking(*found.groups())
        if found := _METHOD.fullmatch(path):
            return PathMatch(f"{found[1].lower()}_v1")
    if verb in ("GET", "HEAD"):
        if found := _LOOKING.fullmatch(path):
            return _looking(*found.groups())
        if path[: len(_MODELS)].lower() == _MODELS and len(path) > len(_MODELS):
            return PathMatch("model_v1")
    raise malformed(verb, path)


def find_slashed(path: str, names: Iterable[str], verb: str = "GET") -> PathMatch | None:
    """Return the operation of a decoded path with the longest of these names; None if no name fits.

    >>> find_slashed("/v1/models/org/m/versions/3", ["org/m", "org"])
    PathMatch(operation='model_v1', model='org/m', version='3', label='')
    """
    rest = path[len(_MODELS) :]
    for name in sorted(names, key=len, reverse=True):
        if rest.startswith(name) and (found := _ENDS[verb].fullmatch(rest, len(name))):
            return (_asking if verb == "POST" else _looking)(name, *found.groups())
    return None


def malformed(verb: str, path: str) -> InvalidInput:
    """Return the error of an unknown path (TF-R7)."""
    return InvalidInput(f"Malformed request: {verb} {path}")


def _asking(model: str, version: str | None, label: str | None, method: str) -> PathMatch:
    return PathMatch(f"{method.lower()}_v1", model, _number(version), label or "")


def _looking(model: str | None, version: str | None, label: str | None, metadata: str | None) -> PathMatch:
    if (model, version, label, metadata) == (None, None, None, None):
        return PathMatch("list_v1")
    if model is None:
        raise InvalidInput("Missing model name in request.")
    return PathMatch("metadata_v1" if metadata else "model_v1", model, _number(version), label or "")


def _number(version: str | None) -> str:
    if version is None:
        return ""
    if len(version) >= 4000 or int(version) > _MOST:  # int() refuses longer texts
        raise InvalidInput(f"Failed to convert version: {version} to numeric.")
    return str(int(version))
