"""Heavy steps as models of an engine, which takes the requests that wait together: one, or a unit of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from salver.backends.protocol import Answer
from salver.features.pipelines.edges import EdgeType
from salver.features.pipelines.liveness import abandoned, is_abandoned
from salver.features.pipelines.planning import Edge, Node
from salver.features.pipelines.steps.step import Arrays, RunMany
from salver.features.pipelines.units import Unit, outputs_of
from salver.words.errors import ModelFailed, SalverError
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import Array, DataType

#: Output of a unit: seconds of each of its steps.
SECONDS: Final = "seconds"


class StepModel:
    """Heavy step as a model."""

    def __init__(self, signature: Signature, run_many: RunMany) -> None:
        self.signature = signature
        self._run_many = run_many

    def run(self, inputs: Arrays) -> Arrays:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        (found,) = self._run_many([inputs])
        if isinstance(found, SalverError):
            raise found
        return found

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        return [
            found if isinstance(found, SalverError) else Answer(_wanted(found, request))
            for found, request in zip(self._run_many(_given(requests)), requests, strict=True)
        ]

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""


class _Link(NamedTuple):
    """Step of a chain.

    Attributes:
        reads: Inputs and their sources.
        gives: Outputs and their sources.
    """

    name: str
    run_many: RunMany
    reads: Sequence[tuple[str, str]]
    gives: Sequence[tuple[str, str]]


class StepChain:
    """Unit of steps as a model: a run takes its requests through all of them.

    Inputs and outputs are named by their sources. What one step refuses costs its own request, and so does
    what it raises; between two steps, requests are dropped for which nobody waits any more.

    Args:
        runs: What runs each step.
        is_over: Returns whether nobody waits for a request.
    """

    def __init__(
        self,
        unit: Unit,
        runs: Sequence[RunMany],
        is_over: Callable[[InferRequest], bool] = is_abandoned,
    ) -> None:
        types = {edge.source: edge.type for edge in edges_into(unit)}
        gives = {f"{node.name}.{name}": type for node in unit for name, type in node.outputs.items()}
        seconds = TensorSpec(SECONDS, DataType.FP64, (-1,))
        self.signature = Signature(specs(types), (*specs(gives), seconds), True)
        self._is_over = is_over
        self._links = [
            _Link(
                node.name,
                run_many,
                [(edge.port, edge.source) for edge in node.edges],
                [(name, f"{node.name}.{name}") for name in node.outputs],
            )
            for node, run_many in zip(unit, runs, strict=True)
        ]

    def run(self, inputs: Arrays) -> Arrays:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        (found,), seconds = self._through([dict(inputs)], None)
        if isinstance(found, SalverError):
            raise found
        return {**found, SECONDS: seconds}

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        found, seconds = self._through(_given(requests), requests)
        return [
            each if isinstance(each, SalverError) else Answer(_wanted({**each, SECONDS: seconds}, request))
            for each, request in zip(found, requests, strict=True)
        ]

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""

    def _through(
        self, given: Sequence[dict[str, Array]], requests: Sequence[InferRequest] | None
    ) -> tuple[list[dict[str, Array] | SalverError], Array]:
        """Return what the steps gave for each request, and the seconds of each step."""
        found: list[dict[str, Array] | SalverError] = [*given]
        seconds = np.zeros(len(self._links))
        for number, link in enumerate(self._links):
            if number and requests is not None:
                self._drop(found, requests)
            going = [(place, each) for place, each in enumerate(found) if not isinstance(each, SalverError)]
            if not going:
                break
            began = time.perf_counter()
            told = _told(link, [{port: each[source] for port, source in link.reads} for _, each in going])
            seconds[number] = time.perf_counter() - began
            for (place, each), outputs in zip(going, told, strict=True):
                if isinstance(outputs, SalverError):
                    outputs.step = link.name
                    found[place] = outputs
                else:
                    each.update({source: outputs[name] for name, source in link.gives})
        return found, seconds

    def _drop(self, found: list[dict[str, Array] | SalverError], requests: Sequence[InferRequest]) -> None:
        for place, request in enumerate(requests):
            if not isinstance(found[place], SalverError) and self._is_over(request):
                found[place] = abandoned(request)


def _told(link: _Link, many: Sequence[Arrays]) -> Sequence[Arrays | SalverError]:
    """Return the outputs or the error of each request; if a step raises, each runs alone."""
    try:
        return link.run_many(many)
    except Exception as error:
        if len(many) > 1:
            return [each for one in many for each in _told(link, [one])]
        if isinstance(error, SalverError):
            return [error]
        return [ModelFailed(f"model '{link.name}' raised {type(error).__name__}: {error}")]


def edges_into(unit: Unit) -> list[Edge]:
    """Return the edges to a unit from elsewhere, one for each source."""
    own = set().union(*map(outputs_of, unit))
    edges = {edge.source: edge for node in unit for edge in node.edges if edge.source not in own}
    return list(edges.values())


def signature_of(node: Node) -> Signature:
    """Return the signature of a step as a model."""
    return Signature(specs({edge.port: edge.type for edge in node.edges}), specs(node.outputs), True)


def specs(types: Mapping[str, EdgeType | None]) -> tuple[TensorSpec, ...]:
    """Return inputs or outputs of these types."""
    return tuple(TensorSpec(name, type.datatype, type.shape) for name, type in types.items() if type)


def _given(requests: Sequence[InferRequest]) -> list[dict[str, Array]]:
    return [{tensor.name: tensor.array for tensor in request.inputs} for request in requests]


def _wanted(found: Arrays, request: InferRequest) -> Arrays:
    return {output.name: found[output.name] for output in request.outputs}
