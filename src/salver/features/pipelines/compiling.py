"""From the plan of a pipeline to the graph that the engine of ensembles runs.

Rows of lists and conditions become ordinary tensors: the offsets of an :data:`Axis` say where the items of
each row begin, and a step that reads rows from further up takes them by these. So the engine knows steps and
models only, and a model gets the items of all rows in one request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from salver.features.pipelines.chains import SECONDS, edges_into
from salver.features.pipelines.edges import Axis, EdgeType
from salver.features.pipelines.graph import Graph, Port, Rescue, Step
from salver.features.pipelines.one_by_one import one_by_one
from salver.features.pipelines.planning import Edge, Node, Plan, RowForm
from salver.features.pipelines.rescue import Constants, OnError, constant
from salver.features.pipelines.steps.step import OFFSETS, Arrays, Run
from salver.features.pipelines.units import Unit
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.messages import (
    PIPELINE,
    Call,
    Column,
    InferRequest,
    InferResponse,
    RequestedOutput,
    Signature,
    TensorSpec,
)
from salver.words.tensor import Array, DataType, Tensor

#: Items in the lists of a request, over all rows.
MOST_ITEMS: Final = 16_384
#: Bytes that a light step takes on the event loop; more take it some tenths of a millisecond.
_LIGHT_BYTES: Final = 1 << 18
#: Offsets of the first branch that a step merges.
_OF_FIRST: Final = f"first.{OFFSETS}"
_NO_AXIS: Final[Axis] = ()
_OF_SECONDS: Final = EdgeType(DataType.FP64, (-1,))
#: Asks a model, or an engine that runs a step: request, context, sender.
Ask = Callable[[InferRequest, Call, Any], Awaitable[InferResponse]]


class Runner(NamedTuple):
    """Ways to run a node.

    Attributes:
        run: Function of arrays, which runs at once; with ``ask``, for small inputs only.
        ask: Function that is waited for.
        by_row: Each row is asked for by itself.
    """

    run: Run | None = None
    ask: Ask | None = None
    by_row: bool = False


def compiled(
    plan: Plan,
    runner_of: Callable[[Node], Runner],
    digest: str = "",
    units: Sequence[tuple[Unit, Ask]] = (),
) -> Graph:
    """Return the graph of a plan whose types are all known.

    Args:
        runner_of: Returns what runs a node.
        digest: That of the signature.
        units: Nodes that are one step of the graph together, and what runs them.
    """
    compiler = _Compiler(plan)
    firsts = {unit[0].name: (unit, ask) for unit, ask in units}
    others = {node.name for unit, _ in units for node in unit[1:]}
    for node in plan.nodes:
        if node.name in firsts:
            compiler.add_unit(*firsts[node.name])
        elif node.name not in others:
            compiler.add(node, runner_of(node))
    steps = compiler.steps
    readers: dict[str, tuple[Step, ...]] = {}
    standby = {compiler.main[name].index for name in plan.standby}
    for step in steps:
        for tensor in step.reads if step.index not in standby else ():
            readers[tensor] = (*readers.get(tensor, ()), step)
    outputs = [(output.name, output.source, _known(output.type)) for output in plan.outputs]
    signature = Signature(
        tuple(_spec(name, _known(type), plan.columns.get(name)) for name, type in plan.inputs.items()),
        tuple(_spec(name, type) for name, _, type in outputs),
        True,
        PIPELINE,
        digest=digest,
    )
    ports = tuple(Port(name, source, type.shape, True) for name, source, type in outputs)
    writers = dict.fromkeys((tensor for step in steps for tensor in step.writes), 1)
    return Graph(plan.name, signature, tuple(steps), ports, 0, readers, writers)


def _known(type: EdgeType | None) -> EdgeType:
    assert type is not None, "the types of a pipeline that is compiled are known"
    return type


def _spec(name: str, type: EdgeType, column: Column | None = None) -> TensorSpec:
    return TensorSpec(name, type.datatype, type.shape, column=column)


def _offsets(axis: Axis) -> str:
    """Return the name of the tensor with the offsets of an axis in the one above it."""
    return f"{OFFSETS}:{'/'.join(axis)}"


class _Compiler:
    """State of compiling one plan."""

    def __init__(self, plan: Plan) -> None:
        self.steps: list[Step] = []
        #: Steps that give the outputs of nodes, by their names.
        self.main: dict[str, Step] = {}
        self._standby = plan.standby
        self._conditions: set[Axis] = set()
        #: Outputs that nothing reads are not asked for.
        self._used = {output.source for output in plan.outputs}
        for node in plan.nodes:
            self._used.update(edge.source for edge in (*node.edges, *filter(None, [node.condition])))
        for node in reversed(plan.nodes):
            if node.table.on_error is not None and node.table.on_error.step:
                read = [name for name in node.outputs if f"{node.name}.{name}" in self._used]
                self._used.update(f"{node.table.on_error.step}.{name}" for name in read)

    def add(self, node: Node, runner: Runner) -> None:
        """Add the steps of a node."""
        if (
            node.condition is not None
            and node.axis[-1:] == (node.part,)
            and node.axis not in self._conditions
        ):
            self._conditions.add(node.axis)
            self._add_condition(node, node.condition)
        if runner.run is not None and runner.ask is None and node.table.on_error is None:
            self._add_run(node, runner.run)
        else:
            self._add_asked(node, runner)
        self._adopt(node)

    def add_unit(self, unit: Unit, ask: Ask) -> None:
        """Add one step for several nodes, which names its inputs and outputs by their sources."""
        axis = unit[0].axis
        ports = [Port(edge.source, edge.source, _known(edge.type).shape, True) for edge in edges_into(unit)]
        types = {source: type for node in unit for source, type in self._outputs(node).values()}
        told = ModelAsk({**types, SECONDS: _OF_SECONDS}, "rows", ask)
        name = " + ".join(node.name for node in unit)
        self._add(name, "", tuple(ports), {source: source for source in types}, ask=told)
        step = self.steps[-1]
        self.steps[-1] = msgspec.structs.replace(
            step,
            wanted=(*step.wanted, RequestedOutput(SECONDS)),
            is_sure=axis == _NO_AXIS,
            parts=tuple(node.name for node in unit),
        )

    def _adopt(self, node: Node) -> None:
        """Add what the file says of a node to its step, the last of those that were added."""
        rescue = None
        if node.table.on_error is not None:
            rescue = self._rescue(node, node.table.on_error)
        step = self.steps[-1]
        reads = dict.fromkeys(step.reads)
        if rescue is not None:
            reads.update(dict.fromkeys(rescue.tensors.values() if rescue.step is None else rescue.step.reads))
        self.steps[-1] = self.main[node.name] = msgspec.structs.replace(
            step,
            rescue=rescue,
            reads=tuple(reads),
            is_sure=node.axis == _NO_AXIS and rescue is None,
            time_share=node.table.time_share,
            name=node.name,
            is_cached=node.table.how.cache,
        )

    def _rescue(self, node: Node, rule: OnError) -> Rescue:
        outputs = self._outputs(node)
        if rule.default is not None:
            rows = {
                tensor: (constant(name, rule.default[name], type), type.datatype)
                for name, (tensor, type) in outputs.items()
            }
            return Rescue(Constants(rows))
        other = self.main[rule.step]
        tensors = {tensor: f"{rule.step}.{name}" for name, (tensor, _) in outputs.items()}
        return Rescue(None, other if rule.step in self._standby else None, tensors)

    def _add_asked(self, node: Node, runner: Runner) -> None:
        """Add a step that is waited for, or may fail, and before it one that takes its rows."""
        edges = node.edges
        taken = [edge for edge in edges if _known(edge.type).axis != node.axis]
        if taken:
            name = f"rows of {node.name}"
            gathered = {edge.port: (f"{node.name}<{edge.port}", _known(edge.type)) for edge in taken}
            self._add_local(name, taken, node.axis, gathered, lambda arrays: arrays)
            edges = tuple(
                edge._replace(source=gathered[edge.port][0]) if edge.port in gathered else edge
                for edge in edges
            )
        ports = tuple(Port(edge.port, edge.source, _known(edge.type).shape, True) for edge in edges)
        outputs = {name: tensor for name, (tensor, _) in self._outputs(node).items()}
        if runner.ask is None and runner.run is not None:
            local = LocalRun(node.name, runner.run, (), node.axis, self._outputs(node))
            self._add(node.name, "", ports, {tensor: tensor for tensor in outputs.values()}, run=local)
            return
        assert runner.ask is not None
        form = node.form
        if runner.by_row and form == "rows":
            form = "single"  # which is what a row of many is, too
        ask = ModelAsk({name: _known(type) for name, type in node.outputs.items()}, form, runner.ask)
        if node.step is None:
            self._add(node.table.model, node.table.version, ports, outputs, ask=ask)
            return
        quick = None
        if runner.run is not None:
            quick = LocalRun(node.name, runner.run, (), node.axis, self._outputs(node))
            quick.most_bytes = node.step.quick_bytes
        self._add(node.name, "", ports, outputs, run=quick, ask=ask)

    def _outputs(self, node: Node) -> dict[str, tuple[str, EdgeType]]:
        named = {name: (f"{node.name}.{name}", _known(type)) for name, type in node.outputs.items()}
        return {name: found for name, found in named.items() if found[0] in self._used}

    def _add_run(self, node: Node, run: Run) -> None:
        outputs = self._outputs(node)
        if node.is_apart and node.items is not None:
            outputs[OFFSETS] = (_offsets(node.items), EdgeType(DataType.INT64, (-1,), (*node.items, "")))
        if node.step is not None and node.step.merges:
            self._add_merge(node, run)
            return
        self._add_local(node.name, node.edges, node.axis, outputs, run, node.items)

    def _add_condition(self, node: Node, condition: Edge) -> None:
        is_unless = condition.port == "unless"
        offsets = (_offsets(node.axis), EdgeType(DataType.INT64, (-1,), (*node.axis, "")))

        def run(arrays: Arrays) -> Arrays:
            mask = arrays[condition.port] ^ is_unless
            return {OFFSETS: np.concatenate(([0], np.cumsum(mask))).astype(np.int64)}

        self._add_local(f"condition of {node.name}", [condition], node.axis[:-1], {OFFSETS: offsets}, run)

    def _add_merge(self, node: Node, run: Run) -> None:
        first = node.edges[0]
        offsets = Edge(_offsets(_known(first.type).axis), _OF_FIRST, None)
        ((name, type),) = node.outputs.items()
        local = LocalRun(node.name, run, (), _NO_AXIS, {name: (f"{node.name}.{name}", _known(type))})
        ports = tuple(Port(edge.port, edge.source, (-1,), True) for edge in (*node.edges, offsets))
        self._add(node.name, "", ports, {f"{node.name}.{name}": f"{node.name}.{name}"}, run=local)

    def _add_local(
        self,
        name: str,
        edges: Sequence[Edge],
        axis: Axis,
        outputs: Mapping[str, tuple[str, EdgeType]],
        run: Run,
        items: Axis | None = None,
    ) -> None:
        """Add a step that runs at once, and takes its rows from further up by offsets."""
        ports = [Port(edge.port, edge.source, _known(edge.type).shape, True) for edge in edges]
        needed: dict[str, None] = {}
        gathers = []
        for edge in edges:
            if edge.is_item:
                needed[_offsets(_known(edge.type).axis)] = None
                continue
            own = _known(edge.type).axis
            steps = tuple(_offsets(axis[:depth]) for depth in range(len(own) + 1, len(axis) + 1))
            if steps:
                gathers.append((edge.port, steps))
                needed.update(dict.fromkeys(steps))
        ports += [Port(tensor, tensor, (-1,), True) for tensor in needed]
        joins = items is not None and any(edge.is_item for edge in edges)
        local = LocalRun(name, run, tuple(gathers), axis, outputs, _offsets(items) if joins and items else "")
        names = {tensor: tensor for tensor, _ in outputs.values()}
        self._add(name, "", tuple(ports), names, run=local)

    def _add(
        self,
        model: str,
        version: str,
        ports: tuple[Port, ...],
        outputs: Mapping[str, str],
        run: "LocalRun | None" = None,
        ask: "ModelAsk | ThreadAsk | None" = None,
    ) -> None:
        if run is not None and ask is None:
            ask = ThreadAsk(model, run)
        reads = tuple(dict.fromkeys(port.tensor for port in ports))
        wanted = tuple(map(RequestedOutput, outputs))
        index, writes = len(self.steps), tuple(outputs.values())
        step = Step(index, model, version, ports, outputs, wanted, reads, writes, "", "", True, False, 0, 0)
        self.steps.append(msgspec.structs.replace(step, run=run, ask=ask, name=model))


class LocalRun:
    """Step that runs on the event loop: from arrays by input to tensors by name in the graph.

    Args:
        gathers: Inputs whose rows are taken by offsets, step by step.
        outputs: Tensor and type of each output.
        joined: Tensor of the offsets of the lists that it puts together; empty = it does not.

    Attributes:
        most_bytes: Bytes of inputs on which it runs at once.
    """

    __slots__ = ("_gathers", "_is_plain", "_joined", "_name", "_outputs", "_run", "most_bytes")

    def __init__(
        self,
        name: str,
        run: Run,
        gathers: tuple[tuple[str, tuple[str, ...]], ...],
        axis: Axis,
        outputs: Mapping[str, tuple[str, EdgeType]],
        joined: str = "",
    ) -> None:
        self._name = name
        self._run = run
        self._gathers = gathers
        self._joined = joined
        self.most_bytes = _LIGHT_BYTES
        #: Rows of lists and conditions may be none at all, which steps are not asked about.
        self._is_plain = not axis and not joined
        self._outputs = tuple(
            (own, tensor, type.datatype, type.datatype.dtype, type) for own, (tensor, type) in outputs.items()
        )

    def __call__(self, given: dict[str, Array]) -> dict[str, Tensor] | None:
        """Return the tensors that it gives; None = the inputs are too large for the event loop.

        Raises:
            SalverError: as ``always``.
        """
        if _size(given, self.most_bytes) > self.most_bytes:
            return None
        return self.always(given)

    def always(self, given: dict[str, Array]) -> dict[str, Tensor]:
        """Return the tensors that it gives, on any thread.

        Raises:
            InvalidInput: lists have too many items.
            ModelFailed: an output is missing, or has another datatype than the step declares.
        """
        arrays = given
        if self._gathers or self._joined:
            arrays = self._gathered(given)
        if self._is_plain or self._joined or len(next(iter(arrays.values()))):
            outputs = self._run(arrays)
        else:
            outputs = {own: _nothing(type) for own, _, _, _, type in self._outputs}
            if OFFSETS in outputs:
                outputs[OFFSETS] = np.zeros(1, np.int64)
        found = {}
        rows = self._rows(arrays, outputs)
        for own, tensor, datatype, dtype, type in self._outputs:
            array = outputs.get(own)
            if array is None or array.dtype != dtype or array.ndim != len(type.shape):
                raise self._wrong(own, type, array)
            if len(array) != rows and own != OFFSETS:
                raise self._wrong(own, type, array, f" of {rows} rows")
            if own == OFFSETS and array[-1] > MOST_ITEMS:
                raise InvalidInput(
                    f"step '{self._name}' found {array[-1]} items in the lists of a request; at most "
                    f"{MOST_ITEMS} are taken",
                    fix="Send fewer rows at once, or limit the items of a row.",
                )
            if not array.flags.c_contiguous:
                array = np.ascontiguousarray(array)
            found[tensor] = Tensor(tensor, datatype, array)
        return found

    def _gathered(self, given: dict[str, Array]) -> dict[str, Array]:
        arrays = {name: array for name, array in given.items() if not name.startswith(f"{OFFSETS}:")}
        for port, steps in self._gathers:
            array = arrays[port]
            for step in steps:
                offsets = given[step]
                array = array[np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))]
            arrays[port] = array
        if self._joined:
            arrays[OFFSETS] = given[self._joined]
        return arrays

    def _rows(self, arrays: Arrays, outputs: Arrays) -> int:
        """Return the rows that outputs must have."""
        if OFFSETS in outputs:
            return int(outputs[OFFSETS][-1])
        offsets = arrays.get(OFFSETS if self._joined else _OF_FIRST)
        if offsets is None:
            return len(next(iter(arrays.values())))
        return len(offsets) - 1

    def _wrong(self, output: str, type: EdgeType, array: Array | None, rows: str = "") -> ModelFailed:
        said = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
        return ModelFailed(f"step '{self._name}' gave {said} for its output {output}, which is {type}{rows}")


class ThreadAsk:
    """Step that runs at once on small inputs, on a thread for large ones."""

    __slots__ = ("_local", "_name")

    def __init__(self, name: str, local: LocalRun) -> None:
        self._name = name
        self._local = local

    async def __call__(self, request: InferRequest, call: Call, sender: Any) -> InferResponse:
        """Return the tensors by their names in the graph.

        Raises:
            ModelFailed: the step raised something of its own.
        """
        given = {tensor.name: tensor.array for tensor in request.inputs}
        try:
            tensors = await asyncio.to_thread(self._local.always, given)
        except SalverError:
            raise
        except Exception as error:
            raise ModelFailed(f"step '{self._name}' raised {type(error).__name__}: {error}") from error
        return InferResponse(request.model, request.version, tuple(tensors.values()), request.id)


def _size(given: Mapping[str, Array], most: int) -> int:
    """Return the bytes of arrays; of large ones at least ``most``."""
    size = 0
    for array in given.values():
        size += array.nbytes
        if array.dtype == object and size <= most:
            size += sum(map(len, array.ravel().tolist()))
    return size


def _nothing(type: EdgeType) -> Array:
    return np.empty([max(0, extent) for extent in (0, *type.shape[1:])], type.datatype.dtype)


class ModelAsk:
    """Asks a model, or an engine that runs a step, in the form in which it takes rows."""

    __slots__ = ("_ask", "_form", "_outputs")

    def __init__(self, outputs: Mapping[str, EdgeType], form: RowForm, ask: Ask) -> None:
        self._ask = ask
        self._form = form
        self._outputs = outputs

    async def __call__(self, request: InferRequest, call: Call, sender: Any) -> InferResponse:
        """Return the answer for all rows; without rows, nothing is asked."""
        rows = len(request.inputs[0].array)
        if not rows:
            tensors = (Tensor(name, type.datatype, _nothing(type)) for name, type in self._outputs.items())
            return InferResponse(request.model, request.version, tuple(tensors), request.id)
        if self._form == "rows":
            return await self._ask(request, call, sender)
        return await one_by_one(self._ask, request, call, sender, is_single=self._form == "single")
