"""Plug-in of a pipeline's step, and the discovery of steps.

A step is a frozen record, whose fields are its options in ``pipeline.toml``. It is found by entry point
(group ``salver.steps``: the name is what ``use`` says), Salver's own steps as well.
``salver.testing.steps`` holds the conformance suite.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec

from salver.features.pipelines.edges import Pattern, pattern
from salver.lazy import installed
from salver.words.errors import LoadFailed, SalverError
from salver.words.messages import Column
from salver.words.tensor import Array

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "salver.steps"
#: Where the items of each row begin, ``INT64[rows + 1]``: an output of steps that take lists apart, an input
#: of those that put them together. The items of row r are ``[offsets[r]:offsets[r + 1]]``.
OFFSETS: Final = "offsets"
_LONGEST_NAME: Final = 256
Arrays = Mapping[str, Array]
Run = Callable[[Arrays], Arrays]
#: Runs the inputs of several requests at once; a request with an error fails alone.
RunMany = Callable[[Sequence[Arrays]], Sequence[Arrays | SalverError]]


class StepPort(NamedTuple):
    """Input or output of a step.

    Attributes:
        column: It is a column of a table, which goes by its name; None = it is not one.
    """

    name: str
    pattern: Pattern
    is_optional: bool = False
    column: Column | None = None


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
        merges: Its two inputs are rows with different conditions; see the step ``merge``. With one input,
            that has the rows of a condition, and its outputs have all of them.
        others: Type of inputs with names of the user's; empty = there are none.
        others_agree: Those inputs have one datatype and one shape.
        revision: To be raised when the step gives other results for the same inputs and options, or a default
            changes: pipelines that were locked before are then refused.
        libraries: Packages whose version may change the results.
        reads: Files that it reads in the folders that options name.
        is_repeatable: It gives the same results for the same inputs at any time, so that they may be cached.
        is_movable: It may run in a process of its own (`placement`).
        by_name: Its inputs are columns (``table_columns``): each takes the nearest output of its name above
            it, or else is an input of the pipeline. Their types have nothing in common.
    """

    inputs: ClassVar[Mapping[str, str]] = {}
    outputs: ClassVar[Mapping[str, str]] = {}
    is_heavy: ClassVar[bool] = False
    threads: ClassVar[int] = 1
    quick_bytes: ClassVar[int] = 0
    merges: ClassVar[bool] = False
    others: ClassVar[str] = ""
    others_agree: ClassVar[bool] = False
    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()
    by_name: ClassVar[bool] = False
    is_repeatable: ClassVar[bool] = True
    is_movable: ClassVar[bool] = True

    def described(self, folder: Path) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return its inputs and outputs, where they depend on the options.

        Args:
            folder: Folder of ``pipeline.toml``, for files that options name.

        Raises:
            LoadFailed: an option does not fit.
        """
        return self.inputs, self.outputs

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield the files that decide its results: by default those that options name.

        A step whose file is data that changes while it is served yields none.
        """
        root = folder.resolve()
        for field in self.__struct_fields__:
            told = getattr(self, field)
            if isinstance(told, str) and 0 < len(told) < _LONGEST_NAME:
                path = folder / told
                if path.resolve().is_relative_to(root):
                    yield from filter(Path.is_file, (path, *(path / name for name in self.reads)))

    def table_columns(self, folder: Path) -> Mapping[str, Column]:
        """Return what callers send for its inputs, where these are columns of a table. Raises LoadFailed."""
        return {}

    def check_others(self, names: Sequence[str]) -> None:
        """Check the names of the inputs that the user has named, in order, against the options.

        Raises:
            LoadFailed: they do not fit.
        """

    def open(self, folder: Path) -> Run:
        """Return the function of a request's arrays: rows in, rows out, in their order.

        It must not keep or change its inputs. It may raise SalverError.

        Raises:
            LoadFailed: an option or a file does not fit.
        """
        raise NotImplementedError

    def open_many(self, folder: Path) -> RunMany:
        """Return the function of several requests' arrays, for a heavy step. Raises as ``open``.

        If it has the attribute ``counts``, numbers by outcome, these are shown on the metrics page.
        """
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
    columns = step.table_columns(folder)
    return (
        tuple(_port(name, told, columns.get(name)) for name, told in inputs.items()),
        tuple(_port(name, told) for name, told in outputs.items()),
    )


def _port(name: str, told: str, column: Column | None = None) -> StepPort:
    return StepPort(name.removesuffix("?"), pattern(told), name.endswith("?"), column)


def step_names() -> tuple[str, ...]:
    """Return the kinds of steps that are installed."""
    return tuple(sorted({entry.name for entry in installed(GROUP)}))


def provider(name: str) -> tuple[str, str]:
    """Return name and version of the package that brings a kind of step; empty for Salver's own."""
    entry = _entry(name)
    if entry is None or entry.dist is None or entry.value.startswith("salver."):
        return "", ""
    return entry.dist.name, entry.dist.version


def _entry(name: str) -> "EntryPoint | None":
    # A package's own step takes the place of Salver's of the same name.
    found = [entry for entry in installed(GROUP) if entry.name == name]
    found.sort(key=lambda entry: entry.value.startswith("salver."))
    return found[0] if found else None


@functools.cache
def step_class(name: str) -> type[Step] | None:
    """Return the record of a kind of step; None = it is not installed.

    Raises:
        LoadFailed: it cannot be imported.
    """
    entry = _entry(name)
    if entry is None:
        return None
    try:
        kind: type[Step] = entry.load()
    except ModuleNotFoundError as error:
        fix = f"Install the package {error.name!r}"
        raise LoadFailed(f"the step {name!r} needs a package that is not installed", fix=fix) from error
    except Exception as error:
        raise LoadFailed(f"the step {name!r} of {entry.value} cannot be imported: {error}") from error
    return kind
