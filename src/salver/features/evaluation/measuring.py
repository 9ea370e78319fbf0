"""Runs of pipelines and models on labelled rows: their answers, and the processor time of each step."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from salver.backends.protocol import LoadOptions, RunnableModel
from salver.features.bulk.rows import Field
from salver.features.pipelines.document import FILE, Document, StepTable
from salver.features.pipelines.local import LocalPipeline, load_model, read_document, served_model
from salver.features.pipelines.planning import Node
from salver.features.pipelines.steps.step import Arrays, Run
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.tensor import Array

_ONLY: Final = "model"  # name of the step of a model that is no pipeline


class StepCost(msgspec.Struct):
    """Rows and processor time of a step.

    Attributes:
        kind: Name of the step, or of the model.
        rows: Rows on which it ran.
        seconds: Processor time, of all threads.
    """

    kind: str
    is_model: bool
    rows: int = 0
    seconds: float = 0.0


class Answers(NamedTuple):
    """Answers to all rows.

    Attributes:
        outputs: Arrays by name, rows along axis 0.
        seconds: Processor time, of all threads.
        steps: Cost of each step.
    """

    outputs: Mapping[str, Array]
    rows: int
    seconds: float
    steps: Mapping[str, StepCost]


class WatchedPipeline(LocalPipeline):
    """Pipeline that counts the rows and the processor time of its steps.

    Args:
        clock: Seconds of processor time.
    """

    def __init__(
        self,
        folder: Path,
        document: Document,
        models: Mapping[str, RunnableModel],
        options: LoadOptions,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.costs: dict[str, StepCost] = {}
        self._clock = clock
        super().__init__(folder, models, options, None, document, looks_beside=True)

    def run_of(self, node: Node, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.local.LocalPipeline`."""
        run, cost = (
            super().run_of(node, folder),
            StepCost(node.table.use or node.table.model, node.step is None),
        )
        self.costs[node.name] = cost

        def watched(arrays: Arrays) -> Arrays:
            began = self._clock()
            found = run(arrays)
            cost.seconds += self._clock() - began
            cost.rows += len(next(iter(found.values())))
            return found

        return watched

    def measured(self, inputs: Mapping[str, Array], batch: int) -> Answers:
        """Run all rows in batches, after one that is not counted.

        Raises:
            SalverError: a step or a model refused them.
        """
        rows = len(next(iter(inputs.values())))
        parts = [
            {name: array[at : at + batch] for name, array in inputs.items()} for at in range(0, rows, batch)
        ]
        self.run(parts[0])
        for cost in self.costs.values():
            cost.rows, cost.seconds = 0, 0.0
        began = self._clock()
        answers = [self.run(part) for part in parts]
        seconds = self._clock() - began
        names = answers[0]
        for name in names:
            if len({answer[name].shape[1:] for answer in answers}) > 1:
                raise InvalidInput(
                    f"the rows of the output {name} differ in shape", fix="Try --batch 1000000"
                )
        outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in names}
        return Answers(
            outputs, rows, seconds, {name: msgspec.structs.replace(c) for name, c in self.costs.items()}
        )

    def fields(self, columns: Mapping[str, tuple[str, ...]]) -> list[Field]:
        """Return the columns of the inputs in a file.

        Raises:
            InvalidInput: a column is named for an input that it does not have.
        """
        specs = {spec.name: spec for spec in self.signature.inputs}
        if unknown := columns.keys() - specs.keys():
            raise InvalidInput(f"there is no input {', '.join(unknown)}", fix=f"It has: {', '.join(specs)}.")
        return [Field(spec, spec.shape[1:], columns.get(name, ())) for name, spec in specs.items()]


def opened(path: Path, options: LoadOptions, changed: Mapping[str, Any]) -> WatchedPipeline:
    """Return a pipeline or a model, loaded.

    Args:
        path: Folder with a ``pipeline.toml``, or a model file or folder.
        changed: Options of steps that are replaced, as ``step.option``.

    Raises:
        LoadFailed: it cannot be loaded.
        InvalidInput: an option is of no step.
    """
    if not path.exists():
        raise InvalidInput(f"{path} does not exist")
    path = path.resolve()
    if (path / FILE).is_file():
        return WatchedPipeline(path, _changed(read_document(path), changed), {}, options)
    if changed:
        raise InvalidInput(f"{path} is no pipeline, and has no step for --vary")
    table = StepTable(_ONLY, model=path.name)
    return WatchedPipeline(
        path, Document(str(path), "", {}, {}, (table,)), {path.name: _loaded(path, options)}, options
    )


def _loaded(path: Path, options: LoadOptions) -> RunnableModel:
    """Return the newest version of the model at a path. Raises LoadFailed."""
    manifest = served_model(path)
    if manifest is None:
        raise LoadFailed(f"{path} is no model that a backend knows, or several", fix="Name one: PATH/NAME")
    return load_model(manifest, options)


def _changed(document: Document, changed: Mapping[str, Any]) -> Document:
    steps = {table.name: table for table in document.steps}
    for name, value in changed.items():
        step, _, option = name.partition(".")
        if step not in steps or not steps[step].use:
            known = ", ".join(table.name for table in document.steps if table.use)
            raise InvalidInput(
                f"--vary {name}: there is no step {step!r}", fix=f"Steps with options: {known}."
            )
        options = {**steps[step].options, option: value}
        steps[step] = msgspec.structs.replace(steps[step], options=options)
    return msgspec.structs.replace(document, steps=tuple(steps.values()))


def variations(told: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the options of ``STEP.OPTION=VALUE,VALUE`` words, in all combinations.

    Raises:
        InvalidInput: a word has another form.

    >>> list(variations(["unsure.limit=0.5,0.9"]))
    [{'unsure.limit': 0.5}, {'unsure.limit': 0.9}]
    """
    if not told:
        yield {}
        return
    name, is_there, values = told[0].partition("=")
    step, dot, option = name.partition(".")
    if not (is_there and step and dot and option and values):
        raise InvalidInput(f"--vary {told[0]!r} is not STEP.OPTION=VALUE,VALUE,…")
    for rest in variations(told[1:]):
        for value in values.split(","):
            yield {name: _value(value.strip()), **rest}


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
