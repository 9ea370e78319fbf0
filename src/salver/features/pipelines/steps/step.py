"""Plug-in of a pipeline's step, and the discovery of steps.

A step is a frozen record, whose fields are its options in ``pipeline.toml``. It is found by entry point
(group ``salver.steps``: the name is what ``use`` says), Salver's own steps as well.
``salver.testing.steps`` holds the conformance suite.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

import msgspec

from salver.features.pipelines.edges import Pattern, pattern
from salver.lazy import installed
from salver.words.errors import LoadFailed, SalverError
from salver.words.tensor import Array

GROUP: Final = "salver.steps"
#: Where the items of each row begin, ``INT64[rows + 1]``: an output of steps that take lists apart, an input
#: of those that put them together. The items of row r are ``[offsets[r]:offsets[r + 1]]``.
OFFSETS: Final = "offsets"
Arrays = Mapping[str, Array]
Run = Callable[[Arrays], Arrays]
#: Runs the inputs of several requests at once; a request with an error fails alone.
RunMany = Callable[[Sequence[Arrays]], Sequence[Arrays | SalverError]]


class StepPort(NamedTuple):
    """Input or output of a step."""

    name: str
    pattern: Pattern
    is_optional: bool = False


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step with its options.

    Inputs and outputs are types by name, such as ``{"text": "BYTES[rows]"}``; the name of an optional input
    ends with ``?``. ``rows`` are the rows of the step, ``items`` those of a list in each row. Other names
    stand for the same extent wherever they occur, ``...`` for any extents, ``FLOAT``, ``INT``, ``NUMBER`` and
    ``ANY`` for one datatype. The first input and the first output are those that are meant without a name.

    Attributes:
        is_heavy: It runs on threads, together for the requests that wait (``open_many``), and not on the
            event loop, which is for what takes some microseconds a row.
        threads: Runs of a heavy step at the same time; with more than one, each has few rows, and the shapes
            of outputs must not depend on other rows.
        quick_bytes: Bytes of inputs for which a heavy step runs on the event loop nevertheless, since
            changing threads would cost more.
        merges: Its two inputs are rows with different conditions; see the step ``merge``.
        others: Type of inputs with names of the user's; empty = there are none.
    """

    inputs: ClassVar[Mapping[str, str]] = {}
    outputs: ClassVar[Mapping[str, str]] = {}
    is_heavy: ClassVar[bool] = False
    threads: ClassVar[int] = 1
    quick_bytes: ClassVar[int] = 0
    merges: ClassVar[bool] = False
    others: ClassVar[str] = ""

    def described(self, folder: Path) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return its inputs and outputs, where they depend on the options.

        Args:
            folder: Folder of ``pipeline.toml``, for files that options name.

        Raises:
            LoadFailed: an option does not fit.
        """
        return self.inputs, self.outputs

    def open(self, folder: Path) -> Run:
        """Return the function of a request's arrays: rows in, rows out, in their order.

        It must not keep or change its inputs. It may raise SalverError.

        Raises:
            LoadFailed: an option or a file does not fit.
        """
        raise NotImplementedError

    def open_many(self, folder: Path) -> RunMany:
        """Return the function of several requests' arrays, for a heavy step. Raises as ``open``."""
        run = self.open(folder)

        def run_each(many: Sequence[Arrays]) -> Sequence[Arrays | SalverError]:
            found: list[Arrays | SalverError] = []
            for arrays in many:
                try:
                    found.append(run(arrays))
                except SalverError as error:
                    found.append(error)
            return found

        return run_each


def ports_of(step: Step, folder: Path) -> tuple[tuple[StepPort, ...], tuple[StepPort, ...]]:
    """Return the inputs and outputs of a step. Raises LoadFailed, as ``described``."""
    inputs, outputs = step.described(folder)
    return tuple(_port(*pair) for pair in inputs.items()), tuple(_port(*pair) for pair in outputs.items())


def _port(name: str, told: str) -> StepPort:
    return StepPort(name.removesuffix("?"), pattern(told), name.endswith("?"))


def step_names() -> tuple[str, ...]:
    """Return the kinds of steps that are installed."""
    return tuple(sorted({entry.name for entry in installed(GROUP)}))


@functools.cache
def step_class(name: str) -> type[Step] | None:
    """Return the record of a kind of step; None = it is not installed.

    Raises:
        LoadFailed: it cannot be imported.
    """
    found = [entry for entry in installed(GROUP) if entry.name == name]
    if not found:
        return None
    # A package's own step takes the place of Salver's of the same name.
    found.sort(key=lambda entry: entry.value.startswith("salver."))
    try:
        kind: type[Step] = found[0].load()
    except ModuleNotFoundError as error:
        fix = f"Install the package {error.name!r}"
        raise LoadFailed(f"the step {name!r} needs a package that is not installed", fix=fix) from error
    except Exception as error:
        raise LoadFailed(f"the step {name!r} of {found[0].value} cannot be imported: {error}") from error
    return kind
