"""Graph of an ensemble: which steps are ready when a tensor arrives.

Pure. :func:`connect` checks a configuration against the signatures of its models, and :class:`Flow` follows
one request through it. A decoupled model returns any number of responses, each of which flows separately
through the following steps: those steps, and all that they write, are a *reach* of their own. The texts are
Triton's if it has one. It knows no task and calls no model.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from salver.backends.loading import fits, is_batched
from salver.words.artifacts import EnsembleStep, ModelConfig, Reshape
from salver.words.errors import LoadFailed
from salver.words.messages import (
    Call,
    InferRequest,
    InferResponse,
    Parameter,
    RequestedOutput,
    Signature,
    TensorSpec,
)
from salver.words.tensor import Array, DataType, Tensor

Shape = tuple[int, ...]


class Member(NamedTuple):
    """A member model.

    Attributes:
        gives_parts: Its responses are parts of one answer, like the tokens of a text.
    """

    signature: Signature
    is_decoupled: bool = False
    gives_parts: bool = False


class Port(NamedTuple):
    """Connection of an ensemble's tensor to a model, or to the ensemble's caller.

    Attributes:
        name: Name in the model (or for the caller).
        tensor: Name in the ensemble.
        shape: Expected shape, including the batch dimension if there is one.
        batched: Axis 0 is the batch dimension there.
        optional: It may be omitted.
    """

    name: str
    tensor: str
    shape: Shape
    batched: bool
    optional: bool = False


class Step(msgspec.Struct, frozen=True):
    """An executable step.

    Attributes:
        outputs: Names in the ensemble by those in the model.
        wanted: Outputs requested from the model.
        reads, writes: Tensors of the ensemble.
        is_decoupled: The model returns any number of responses.
        reach: Reach in which it runs; 0 = once per request.
        gives: Reach of what it writes.
        run: Runs it at once, from arrays by input to tensors by name in the graph, or returns None if that
            would take its time; None = it always does.
        ask: Asks what runs it; None = the server's model of that name.
        rescue: What stands in for it if it fails; None = nothing.
        is_sure: It runs for every request with rows.
        time_share: Largest part of a request's time that it may take; 0 = any.
        name: As its author named it, or else the model's.
        parts: Names of the steps that run in its one call, whose last output is the seconds of each.
        is_cached: Its answers say in their parameters how often the response cache had them.
    """

    index: int
    model: str
    version: str
    inputs: tuple[Port, ...]
    outputs: Mapping[str, str]
    wanted: tuple[RequestedOutput, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    when: str
    unless: str
    batched: bool
    is_decoupled: bool
    reach: int
    gives: int
    run: Callable[[dict[str, Array]], dict[str, Tensor] | None] | None = None
    ask: Callable[[InferRequest, Call, Hashable], Awaitable[InferResponse]] | None = None
    rescue: "Rescue | None" = None
    is_sure: bool = True
    time_share: float = 0.0
    name: str = ""
    parts: tuple[str, ...] = ()
    is_cached: bool = False

    @property
    def spare(self) -> "Step | None":
        """Step that runs if this one fails."""
        return None if self.rescue is None else self.rescue.step


class Rescue(msgspec.Struct, frozen=True):
    """Substitute for the outputs of a step that failed.

    Attributes:
        constants: Returns so many rows of its outputs.
        step: Step to run, which nothing else does; None = its tensors have arrived already.
        tensors: Tensors of that step by those of the failed one.
    """

    constants: Callable[[int], Sequence[Tensor]] | None = None
    step: Step | None = None
    tensors: Mapping[str, str] = {}


class Graph(msgspec.Struct, frozen=True):
    """A connected ensemble.

    Attributes:
        signature: Signature for callers.
        outputs: Outputs for callers, in order.
        reach: Reach of the outputs; 0 = there is one response.
        readers: Steps that read a tensor.
        writers: Number of steps that may write it.
        reshape: Inner shapes that differ from those for callers.
        gives_parts: Its responses are parts of one answer, each with all outputs.
    """

    name: str
    signature: Signature
    steps: tuple[Step, ...]
    outputs: tuple[Port, ...]
    reach: int
    readers: Mapping[str, tuple[Step, ...]]
    writers: Mapping[str, int]
    reshape: Reshape = Reshape()
    gives_parts: bool = False

    @property
    def is_decoupled(self) -> bool:
        """Return whether it returns any number of responses."""
        return any(step.is_decoupled for step in self.steps)

    def needed(self, outputs: Iterable[str]) -> frozenset[int]:
        """Return the indices of the steps needed for these outputs."""
        found: dict[int, Step] = {}
        wanted = set(outputs)
        tensors = {port.tensor for port in self.outputs if port.name in wanted}
        # Walk backwards from the outputs: a step is needed if it writes a tensor that a needed step reads.
        while tensors:
            more = [s for s in self.steps if s.index not in found and not tensors.isdisjoint(s.writes)]
            found.update((step.index, step) for step in more)
            tensors = {tensor for step in more for tensor in step.reads}
        return frozenset(found)


class Marks(NamedTuple):
    """Sequence flags of a tensor, which Triton's ensembles return with their responses."""

    id: int | str = 0
    start: bool = False
    end: bool = False

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters of a request or a response."""
        return {"sequence_id": self.id, "sequence_start": self.start, "sequence_end": self.end}

    @classmethod
    def of(cls, parameters: Mapping[str, Parameter], default: "Marks") -> "Marks":
        """Return the marks in parameters; the default if they name no sequence."""
        if not parameters or _SEQUENCE.isdisjoint(parameters):
            return default
        id = parameters.get("sequence_id", default.id)
        start, end = (bool(parameters.get(name, False)) for name in ("sequence_start", "sequence_end"))
        return cls(id if isinstance(id, int | str) else default.id, start, end)


_SEQUENCE = frozenset(("sequence_id", "sequence_start", "sequence_end"))


class Value(NamedTuple):
    """A tensor in flow.

    Attributes:
        rows: Rows of its request; 0 = from a model without a batch dimension.
    """

    tensor: Tensor
    rows: int
    marks: Marks

    def at(self, port: Port) -> Array:
        """Return its array as expected at a port, without a copy, with or without a batch dimension of 1."""
        array = self.tensor.array
        if port.batched == bool(self.rows):
            return array
        # A model without a batch dimension meets one with: add or remove an axis of extent 1 if the shape
        # fits.
        if port.batched:
            if not fits(port.shape[1:], array.shape):
                return array
            return array.reshape((1, *array.shape))
        is_single = self.rows == 1 and not fits(port.shape, array.shape)
        if not is_single:
            return array
        return array.reshape(array.shape[1:])


class Flow:
    """Progress of one request, or of one response of a decoupled step, through the steps of a reach.

    Args:
        only: Indices of the steps to run; None = all.

    Attributes:
        reach: Reach of its steps.
        values: Tensors that have arrived. None: an optional input that the caller omitted; the models decide
            whether they accept that.
        absent: Tensors that will never arrive, because a condition did not hold.
    """

    __slots__ = ("_graph", "_left", "_only", "_skips", "absent", "reach", "values")

    def __init__(self, graph: Graph, reach: int = 0, only: frozenset[int] | None = None) -> None:
        self._graph = graph
        self.reach = reach
        self._only = only
        self._left: dict[int, int] = {}
        self._skips: dict[str, int] = {}
        self.values: dict[str, Value | None] = {}
        self.absent: set[str] = set()

    def array(self, tensor: str) -> Array:
        """Return the array of a tensor that has arrived."""
        value = self.values[tensor]
        assert value is not None, "a pipeline's inputs are never left out"
        return value.tensor.array

    def put(self, values: Mapping[str, Value | None], absent: Sequence[str] = ()) -> list[Step]:
        """Add tensors that have arrived, or never will; return the steps that are now ready."""
        self.values.update(values)
        told = list(values)
        if absent:
            self.absent.update(absent)
            told += absent
        ready = []
        for tensor in told:  # the list grows while it is read
            for step in self._graph.readers.get(tensor, ()):
                if step.reach != self.reach or (self._only is not None and step.index not in self._only):
                    continue
                # A step is ready when its last tensor has arrived or is known to be absent.
                left = self._left.get(step.index, len(step.reads)) - 1
                self._left[step.index] = left
                if left:
                    continue
                if self._is_to_run(step):
                    ready.append(step)
                else:
                    told += self._skipped(step)
        return ready

    def _is_to_run(self, step: Step) -> bool:
        absent = self.absent
        if absent and any(port.tensor in absent and not port.optional for port in step.inputs):
            return False
        guard = step.when or step.unless
        if not guard:
            return True
        value = self.values.get(guard)
        if value is None:  # an omitted input counts as false; a tensor never written has no value
            return bool(step.unless) and guard not in absent
        return bool(value.tensor.array.any()) == bool(step.when)

    def _skipped(self, step: Step) -> list[str]:
        """Return the tensors that no step will write now."""
        gone = []
        for tensor in step.writes:
            # Alternative steps may write the same tensor: it is absent only if all of them are skipped.
            self._skips[tensor] = self._skips.get(tensor, 0) + 1
            if self._skips[tensor] == self._graph.writers[tensor]:
                gone.append(tensor)
        self.absent.update(gone)
        return gone


class _Node(NamedTuple):
    """Properties of a tensor, and their source."""

    model: str
    spec: TensorSpec
    batched: bool

    @property
    def row(self) -> Shape:
        if not self.batched:
            return self.spec.shape
        return self.spec.shape[1:]


def connect(name: str, config: ModelConfig, members: Mapping[tuple[str, str], Member]) -> Graph:
    """Connect an ensemble to compatible models.

    Args:
        config: One whose tensors can flow (``kernel/repository/checks/ensemble.py``).
        members: Models by the names and versions in the steps.

    Raises:
        LoadFailed: they are not compatible.
    """
    return _Connector(name, config, members).graph()


class _Connector:
    """State of connecting one ensemble."""

    def __init__(self, name: str, config: ModelConfig, members: Mapping[tuple[str, str], Member]) -> None:
        self._name = name
        self._config = config
        self._pairs = [(step, members[step.model, step.version]) for step in config.ensemble.steps]
        self._nodes: dict[str, _Node] = {}
        self._reaches: dict[str, int] = {}

    def graph(self) -> Graph:
        """Return the graph. Raises LoadFailed."""
        config = self._config
        inputs, outputs = config.inputs or self._inferred_inputs(), config.outputs or self._inferred_outputs()
        batched = is_batched(inputs, outputs, config)
        signature = Signature(inputs, tuple(map(self._labelled, outputs)), batched, "ensemble")
        for specs, shapes in ((inputs, config.reshape.inputs), (outputs, config.reshape.outputs)):
            for spec in specs:
                inner = replace(spec, shape=shapes.get(spec.name, spec.shape))
                self._nodes.setdefault(spec.name, _Node(self._name, inner, batched))
        ports = [self._port(step, member.signature) for step, member in self._pairs]
        self._reaches = dict.fromkeys((spec.name for spec in inputs), 0)
        made = self._in_order(ports)
        # All outputs must come from one reach, or a response could lack some of them.
        reaches = {self._reaches[spec.name] for spec in outputs}
        if len(reaches) > 1:
            raise self._mixed(self._name)
        shapes = config.reshape.outputs
        outs = tuple(
            Port(spec.name, spec.name, shapes.get(spec.name, spec.shape), batched) for spec in outputs
        )
        readers: dict[str, tuple[Step, ...]] = {}
        writers: dict[str, int] = {}
        for step in made:
            for tensor in step.reads:
                readers[tensor] = (*readers.get(tensor, ()), step)
            for tensor in step.writes:
                writers[tensor] = writers.get(tensor, 0) + 1
        parts = [member.gives_parts for _, member in self._pairs if member.is_decoupled]
        # With conditional steps a response may lack outputs, and then it is not a part that can be joined.
        is_sure = not any(step.when or step.unless for step, _ in self._pairs)
        return Graph(
            self._name,
            signature,
            made,
            outs,
            reaches.pop(),
            readers,
            writers,
            config.reshape,
            bool(parts) and all(parts) and is_sure,
        )

    def _inferred_inputs(self) -> tuple[TensorSpec, ...]:
        """Return tensors that no step writes, as required by the first model that reads them."""
        written = {tensor for step, _ in self._pairs for tensor in step.outputs.values()}
        found: dict[str, TensorSpec] = {}
        for step, member in self._pairs:
            specs = {spec.name: spec for spec in member.signature.inputs}
            for own, tensor in step.inputs.items():
                if tensor not in written and own in specs:
                    spec = found.get(tensor, replace(specs[own], name=tensor))
                    found[tensor] = replace(spec, optional=spec.optional and specs[own].optional)
        for step, _ in self._pairs:
            if (guard := step.when or step.unless) and guard not in {*written, *found}:
                found[guard] = TensorSpec(guard, DataType.BOOL, (-1,))
        return tuple(found.values())

    def _inferred_outputs(self) -> tuple[TensorSpec, ...]:
        """Return tensors that no step reads, as the model returns them."""
        read = {tensor for step, _ in self._pairs for tensor in step.reads}
        found: dict[str, TensorSpec] = {}
        for step, member in self._pairs:
            specs = {spec.name: spec for spec in member.signature.outputs}
            for own, tensor in step.outputs.items():
                if tensor not in read and own in specs:
                    found.setdefault(tensor, replace(specs[own], name=tensor))
        return tuple(found.values())

    def _port(self, step: EnsembleStep, own: Signature) -> tuple[Port, ...]:
        """Return the inputs of a step, checked like its outputs."""
        where, model = f"in ensemble {self._name}", step.model
        takes = {spec.name: spec for spec in own.inputs}
        gives = {spec.name: spec for spec in own.outputs}
        for name, tensor in step.inputs.items():
            if name not in takes:
                raise self._wrong(
                    f"{where}, ensemble tensor {tensor} is mapping to non-existing input {name} in model "
                    f"{model}",
                    f"It has: {', '.join(takes)}",
                )
        for spec in own.inputs:
            if spec.name in step.inputs:
                self._agree(step.inputs[spec.name], model, spec, own.batched)
            elif not spec.optional:
                raise self._wrong(
                    f"{where}, input {spec.name} in model {model} is not mapped to any ensemble tensors"
                )
        for name, tensor in step.outputs.items():
            if name not in gives:
                raise self._wrong(
                    f"{where}, ensemble tensor {tensor} is mapped from non-existing output {name} in model "
                    f"{model}",
                    f"It has: {', '.join(gives)}",
                )
            self._agree(tensor, model, gives[name], own.batched)
        return tuple(
            Port(name, tensor, takes[name].shape, own.batched, takes[name].optional)
            for name, tensor in step.inputs.items()
        )

    def _agree(self, tensor: str, model: str, spec: TensorSpec, batched: bool) -> None:
        """Check that all users of a tensor agree on it."""
        here = _Node(model, spec, batched)
        # The first user of a tensor fixes its type and shape; later ones are compared with it.
        known = self._nodes.setdefault(tensor, here)
        begin = f"in ensemble {self._name}, ensemble tensor {tensor}: inconsistent"
        if known.spec.datatype is not spec.datatype:
            types = [_type_name(node.spec.datatype) for node in (known, here)]
            raise self._wrong(
                f"{begin} data type: {types[0]} is inferred from model {known.model} while {types[1]} is "
                f"inferred from model {model}"
            )
        if not fits(known.row, here.row) and not fits(known.spec.shape, spec.shape):
            shapes = [f"[{','.join(map(str, node.spec.shape))}]" for node in (known, here)]
            raise self._wrong(
                f"{begin} shape: {shapes[0]} is inferred from model {known.model} while {shapes[1]} is "
                f"inferred from model {model}"
            )

    def _in_order(self, ports: list[tuple[Port, ...]]) -> tuple[Step, ...]:
        """Return the steps, each with its reach, in the order of their dependencies."""
        waiting = list(range(len(self._pairs)))
        made: list[Step] = []
        while due := [i for i in waiting if self._reaches.keys() >= set(self._pairs[i][0].reads)]:
            for index in due:
                made.append(self._step(index, ports[index]))
            waiting = [i for i in waiting if i not in due]
        return tuple(made)

    def _step(self, index: int, ports: tuple[Port, ...]) -> Step:
        step, member = self._pairs[index]
        reads = step.reads
        if len(reaches := {self._reaches[tensor] for tensor in reads}) > 1:
            raise self._mixed(step.model)
        if (guard := step.when or step.unless) and (kind := self._guard_type(guard)) is not DataType.BOOL:
            raise self._wrong(
                f"in ensemble {self._name}, the condition '{guard}' of step {index} is "
                f"{kind.name if kind else 'not known'}, not BOOL"
            )
        reach = gives = reaches.pop()
        if member.is_decoupled:
            gives = max(self._reaches.values()) + 1
        for tensor in step.outputs.values():
            if self._reaches.setdefault(tensor, gives) != gives:
                raise self._mixed(step.model)
        return Step(
            index,
            step.model,
            step.version,
            ports,
            step.outputs,
            tuple(map(RequestedOutput, step.outputs)),
            reads,
            tuple(step.outputs.values()),
            step.when,
            step.unless,
            member.signature.batched,
            member.is_decoupled,
            reach,
            gives,
            name=step.model,
        )

    def _guard_type(self, tensor: str) -> DataType | None:
        node = self._nodes.get(tensor)
        return node.spec.datatype if node else None

    def _labelled(self, output: TensorSpec) -> TensorSpec:
        """Return the tensor with the labels of the model that writes it, if it has none of its own."""
        for step, member in self._pairs:
            for spec in member.signature.outputs:
                if not output.labels and step.outputs.get(spec.name) == output.name:
                    output = replace(output, labels=spec.labels)
        return output

    def _mixed(self, model: str) -> LoadFailed:
        return self._wrong(
            f"in ensemble {self._name}, step of model '{model}' receives inputs originated from different "
            "decoupled models"
        )

    def _wrong(self, text: str, fix: str = "") -> LoadFailed:
        return LoadFailed(text, field="ensemble_scheduling", fix=fix)


def _type_name(datatype: DataType) -> str:
    """Return Triton's name of a datatype."""
    if datatype is DataType.BYTES:
        return "TYPE_STRING"
    return f"TYPE_{datatype.name}"
