"""Pipelines in a program, without a server: what a ``pipeline.toml`` does when it is served, on arrays.

Training code that prepares its inputs with the pipeline that serves them cannot prepare them differently::

    pipeline = salver.pipelines.load("./reviews")
    pipeline({"text": ["It was fine."]})["label"]
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from salver.backends.protocol import LoadOptions, RunnableModel
from salver.encoding.values import typed
from salver.features.pipelines.fitted import fitted_values
from salver.features.pipelines.local import LocalPipeline
from salver.features.pipelines.locking import Skew
from salver.kernel.engine.admission import Admission
from salver.words.errors import LoadFailed
from salver.words.messages import InferRequest, Signature
from salver.words.tensor import Array, DataType, Tensor

__all__ = ["Pipeline", "fitted_values", "load"]

_NOTHING: Final = (DataType.BOOL, np.zeros(0, bool))  # of an unknown input, which is refused by its name
_NO_MODELS: Final[Mapping[str, RunnableModel]] = {}


class Pipeline:
    """Loaded pipeline; close it, or use it in a ``with`` statement, to release its models."""

    def __init__(self, pipeline: LocalPipeline) -> None:
        self._pipeline = pipeline
        self._admission = Admission(pipeline.plan.name, pipeline.signature)

    def __repr__(self) -> str:
        return f"<Pipeline {self._pipeline.plan.name}, {len(self._pipeline.plan.nodes)} steps>"

    @property
    def signature(self) -> Signature:
        """Inputs and outputs, each with the rows first."""
        return self._pipeline.signature

    @property
    def digest(self) -> str:
        """SHA-256 of what decides its answers: graph, options, files, models, versions of libraries.

        Raises:
            LoadFailed: a file cannot be read.
        """
        return self._pipeline.fingerprint().digest

    def lock(self, inputs: Mapping[str, Any] | None = None) -> str:
        """Write ``pipeline.lock`` beside ``pipeline.toml``, and return the digest.

        A server or a program that loads the pipeline after that is told what has changed.

        Args:
            inputs: Training data; a server compares what it is asked with its distributions. None = the file
                keeps those that it has.

        Raises:
            LoadFailed: a file cannot be read or written.
            SalverError: as of a call.
        """
        return self._pipeline.lock(None if inputs is None else self._arrays(inputs)).digest

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Return the outputs by name, for arrays or lists of equally many rows.

        Raises:
            InvalidInput: the inputs do not fit the signature.
            SalverError: a step or a model refused them.
        """
        return self._pipeline.run(self._arrays(inputs))

    def _arrays(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        known = {spec.name: spec for spec in self.signature.inputs}
        tensors = tuple(
            typed(name, values, known[name].datatype) if name in known else Tensor(name, *_NOTHING)
            for name, values in inputs.items()
        )
        bound = self._admission.bind(InferRequest(self._pipeline.plan.name, tensors))
        return {name: array for name, array in zip(known, bound.arrays, strict=True) if array is not None}

    def close(self) -> None:
        """Release the models."""
        self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    path: Path | str,
    models: Mapping[str, RunnableModel] = _NO_MODELS,
    *,
    threads: int = 1,
    trust_pickle: bool = False,
    skew: Skew | None = "refuse",
    expected: str = "",
) -> Pipeline:
    """Load the pipeline of a directory with a ``pipeline.toml``.

    Models of the server are loaded from the folders beside that of the pipeline, where a repository has them.

    Args:
        models: Models that the file names and that are neither in its folder nor beside it, by name.
        threads: Threads inside one run of a model.
        trust_pickle: Load models whose files can execute code.
        skew: What happens if it is not the pipeline of its ``pipeline.lock``: ``refuse``, ``warn`` (in the
            log ``salver.pipelines``), or None = nothing.
        expected: Digest that it must have, where that is kept elsewhere; empty = any.

    Raises:
        LoadFailed: the pipeline does not fit, which names the edge, or is not the expected one.
    """
    options = LoadOptions(threads, trust_pickle)
    found = Pipeline(LocalPipeline(Path(path), models, options, skew, looks_beside=True))
    if expected and found.digest != expected:
        text = f"the pipeline {path} has the digest {found.digest}, not {expected}"
        found.close()
        raise LoadFailed(
            text, fix="salver pipelines lock records what it consists of, and names what changed"
        )
    return found
