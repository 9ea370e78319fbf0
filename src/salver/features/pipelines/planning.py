"""Planning of a pipeline: which edge goes where, and whether everything fits.

Pure. :func:`plan` gives every input of every step its source, checks datatypes, shapes and lists, and names
the edge that does not fit: ``tokens.ids -> network.input_ids: INT64[-1] where INT64[-1,-1] is wanted``. A
step reads only steps above it, so that there are no cycles.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from salver.features.pipelines.document import Document, StepTable, nearest
from salver.features.pipelines.edges import Axis, Bindings, EdgeType, Pattern, pattern
from salver.features.pipelines.rescue import OnError, constant
from salver.features.pipelines.running import unfit_step
from salver.features.pipelines.steps.step import Step, StepPort, ports_of, step_class, step_names
from salver.words.errors import LoadFailed
from salver.words.messages import Column, Signature, TensorSpec
from salver.words.tensor import DataType

#: How a model takes rows: many at once, one with an extent of 1 in front, or one as it is.
RowForm = Literal["rows", "single", "bare"]
_ROWS: Final[RowForm] = "rows"
_NO_AXIS: Final[Axis] = ()
_WITH: Final = {"when": "with", "unless": "without"}
_TOGETHER: Final = "Put a step such as collect, text-join, reduce or merge between them"


class Edge(NamedTuple):
    """Edge from a step, or from the pipeline's input, to the input of a step.

    Attributes:
        source: ``step.output``, or the name of an input.
        port: Name of the input at its end.
        type: None = not known, because the model is not.
    """

    source: str
    port: str
    type: EdgeType | None
    is_item: bool = False


class Node(msgspec.Struct, frozen=True):
    """A step or model in its place.

    Attributes:
        step: None = a model.
        form: How the model takes rows.
        condition: Edge of ``when`` or ``unless``.
        axis: Rows that it runs on; for one that puts lists together, those that it gives.
        items: Rows of the lists that it takes apart or puts together; None = neither.
    """

    table: StepTable
    step: Step | None
    form: RowForm
    edges: tuple[Edge, ...]
    condition: Edge | None
    outputs: Mapping[str, EdgeType | None]
    axis: Axis
    items: Axis | None = None

    @property
    def name(self) -> str:
        """Name of its table."""
        return self.table.name

    @property
    def part(self) -> str:
        """Name of the rows for which its condition holds; empty = it has none."""
        if self.condition is None:
            return ""
        return _part(self.condition)

    @property
    def is_apart(self) -> bool:
        """Whether it takes lists apart."""
        return self.items is not None and not any(edge.is_item for edge in self.edges)


class Output(NamedTuple):
    """Output of the pipeline."""

    name: str
    source: str
    type: EdgeType | None


class Plan(msgspec.Struct, frozen=True):
    """A pipeline that fits.

    Attributes:
        columns: Inputs that are columns of a table.
        standby: Steps that run only for another one that failed.
    """

    name: str
    inputs: Mapping[str, EdgeType | None]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    columns: Mapping[str, Column] = {}
    standby: frozenset[str] = frozenset()


#: Returns the signature of the model of a step; None = it is not known here.
SignatureOf = Callable[[StepTable], Signature | None]


def open_step(document: Document, table: StepTable) -> Step:
    """Return the step of a table, with its options.

    Raises:
        LoadFailed: the kind or an option is not known, or an option has a wrong value.
    """
    where = f"steps.{table.name}"
    kind = step_class(table.use)
    if kind is None:
        text = f"step `{table.name}`: there is no step `{table.use}`"
        raise document.fault(f"{where}.use", text, nearest(table.use, step_names(), "There are"))
    fields = kind.__struct_fields__
    for key in table.options:
        if key not in fields:
            text = f"step `{table.name}`: unknown option `{key}` of {table.use}"
            raise document.fault(f"{where}.{key}", text, nearest(key, fields, "Its options"))
    try:
        return msgspec.convert(table.options, kind)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$")
        key = path.strip("`.").partition("[")[0]
        text = f"step `{table.name}`: option `{key}`: {said[:1].lower()}{said[1:]}"
        raise document.fault(f"{where}.{key}", text) from error


def plan(name: str, document: Document, folder: Path, signature_of: SignatureOf) -> Plan:
    """Return the plan of a pipeline.

    Args:
        folder: Folder of ``pipeline.toml``, for files that options name.

    Raises:
        LoadFailed: something does not fit; names the edge.
    """
    return _Planner(document, folder, signature_of).plan(name)


class _Planner:
    """State of planning one pipeline."""

    def __init__(self, document: Document, folder: Path, signature_of: SignatureOf) -> None:
        self._document = document
        self._folder = folder
        self._signature_of = signature_of
        self._inputs: dict[str, EdgeType | None] = dict(document.inputs)
        self._nodes: dict[str, Node] = {}
        self._read: set[str] = set()
        self._wanted: set[str] = set()
        #: What each reader of an input takes; None = it takes no columns.
        self._columns: dict[str, list[Column | None]] = {}
        self._stand_ins: set[str] = set()

    def plan(self, name: str) -> Plan:
        """Return the plan. Raises LoadFailed."""
        for table in self._document.steps:
            self._nodes[table.name] = self._node(table)
        outputs = self._outputs()
        for step in self._nodes:
            if step not in self._read | self._stand_ins:
                problem = f"step `{step}`: nothing reads it, and it is no output"
                raise self._document.fault(f"steps.{step}", problem)
        self._check_rescued(outputs)
        for given in self._inputs.keys() - self._wanted:
            raise self._document.fault(f"inputs.{given}", f"input `{given}`: nothing reads it")
        columns = {told: column for told, known in self._columns.items() if (column := _common(known))}
        nodes = tuple(self._nodes.values())
        standby = frozenset(self._stand_ins - self._read)
        return Plan(name, self._inputs, nodes, outputs, columns, standby)

    def _outputs(self) -> tuple[Output, ...]:
        wanted = self._document.outputs
        if not wanted:
            last = [*self._nodes.values()][-1]
            wanted = {name: f"{last.name}.{name}" for name in last.outputs}
        found = []
        for name, told in wanted.items():
            source, type = self._source(told, f"outputs.{name}", f"output `{name}`")
            if type is not None and type.axis:
                problem = f"{source} -> outputs.{name}: {_rows_of(type.axis)} where {_rows_of(())} are wanted"
                raise self._document.fault(f"outputs.{name}", problem, _TOGETHER)
            found.append(Output(name, source, type))
        return tuple(found)

    def _node(self, table: StepTable) -> Node:
        where = f"steps.{table.name}"
        step, form, is_known = None, _ROWS, True
        if table.use:
            step = open_step(self._document, table)
            ins, outs = self._ports_of_step(step, table)
        else:
            signature = self._signature_of(table)
            ins, outs, form = _ports_of_model(signature)
            is_known = signature is not None
        edges = self._edges(table, ins, is_known=is_known)
        condition = self._condition(table)
        bound: Bindings = {}
        patterns = {port.name: port.pattern for port in ins}
        for edge in edges:
            # Inputs with names of the user's have nothing in common with one another.
            is_apart = step is not None and (step.by_name or (step.others and not step.others_agree))
            names: Bindings = {} if is_apart else bound
            self._check(edge, patterns.get(edge.port), names, where)
        axis, items = self._rows(table, step, edges, condition, outs)
        if step is not None:
            has_lists = items is not None or step.merges
            self._document.check(table, unfit_step(step, table.how, has_lists=has_lists))
        outputs: dict[str, EdgeType | None] = {}
        for port in outs:
            own = items if port.pattern.is_item and items is not None else axis
            outputs[port.name] = port.pattern.filled(bound, own)
            if outputs[port.name] is None and all(edge.type is not None for edge in edges):
                problem = f"step `{table.name}`: the type of {port.name} is not known"
                raise self._document.fault(where, problem)
        node = Node(table, step, form, edges, condition, outputs, axis, items)
        if table.on_error is not None:
            self._check_rescue(node, table.on_error)
        return node

    def _check_rescue(self, node: Node, rule: OnError) -> None:
        """Raise LoadFailed unless what stands in for a step has the types of its outputs."""
        where = f"steps.{node.name}.on-error"
        if node.items is not None or (node.step is not None and node.step.merges):
            problem = (
                f"step `{node.name}`: it takes lists apart or puts rows together, and cannot be stood in for"
            )
            raise self._document.fault(where, problem)
        if rule.default is not None:
            for name in rule.default.keys() - node.outputs.keys():
                problem = f"step `{node.name}`: it has no output `{name}`"
                raise self._document.fault(where, problem, nearest(name, node.outputs, "It has"))
            for name, type in node.outputs.items():
                if name in rule.default and type is not None:
                    try:
                        constant(name, rule.default[name], type)
                    except ValueError as error:
                        raise self._document.fault(where, f"step `{node.name}`: {error}") from error
            return
        other = self._nodes.get(rule.step)
        if other is None:
            problem = f"step `{node.name}`: no step `{rule.step}` is above it"
            raise self._document.fault(where, problem, nearest(rule.step, self._nodes))
        self._stand_ins.add(rule.step)
        if other.axis != node.axis:
            problem = (
                f"{rule.step} for {node.name}: {_rows_of(other.axis)} where {_rows_of(node.axis)} are wanted"
            )
            raise self._document.fault(where, problem)
        for name, type in node.outputs.items():
            found = other.outputs.get(name)
            if found is not None and type is not None and not _stands_in(found, type):
                problem = f"{rule.step}.{name} for {node.name}.{name}: {found} where {type} is wanted"
                raise self._document.fault(where, problem)

    def _check_rescued(self, outputs: tuple[Output, ...]) -> None:
        """Raise LoadFailed if something reads an output for which nothing stands in."""
        read = {output.source for output in outputs}
        for node in self._nodes.values():
            read.update(edge.source for edge in (*node.edges, *filter(None, [node.condition])))
        for node in self._nodes.values():
            rule = node.table.on_error
            if rule is None:
                continue
            known = self._nodes[rule.step].outputs if rule.default is None else rule.default
            for name in node.outputs:
                if f"{node.name}.{name}" in read and name not in known:
                    problem = f"step `{node.name}`: nothing stands in for its output {name}"
                    raise self._document.fault(f"steps.{node.name}.on-error", problem)

    def _ports_of_step(
        self, step: Step, table: StepTable
    ) -> tuple[tuple[StepPort, ...], tuple[StepPort, ...]]:
        try:
            ins, outs = ports_of(step, self._folder)
            names = {port.name for port in ins}
            if step.others:
                own = [name for name in table.inputs if name not in names]
                step.check_others(own)
                ins = (*(StepPort(name, pattern(step.others)) for name in own), *ins)
        except (LoadFailed, ValueError) as error:
            raise self._document.fault(f"steps.{table.name}", f"step `{table.name}`: {error}") from error
        return ins, outs

    def _edges(self, table: StepTable, ports: tuple[StepPort, ...], is_known: bool) -> tuple[Edge, ...]:
        """Return the edges to a step, those that are named and those that follow from names."""
        where, names = f"steps.{table.name}.inputs", [port.name for port in ports]
        found = {}
        for name, told in table.inputs.items():
            if is_known and name not in names:
                problem = f"{told} -> {table.name}.{name}: {_what(table)} has no input `{name}`"
                raise self._document.fault(f"{where}.{name}", problem, nearest(name, names, "It has"))
            port = next((port for port in ports if port.name == name), None)
            source, type = self._source(told, f"{where}.{name}", f"{told} -> {table.name}.{name}", port)
            found[name] = Edge(source, name, type, port is not None and port.pattern.is_item)
        for index, port in enumerate(ports):
            # The only input of a model continues the chain, also if it is a column.
            is_first = index == 0 and (port.column is None or (not table.use and len(ports) == 1))
            if port.name not in found and (told := self._implied(table, port, is_first)):
                place = f"{told} -> {table.name}.{port.name}"
                source, type = self._source(told, where, place, port)
                found[port.name] = Edge(source, port.name, type, port.pattern.is_item)
        if not found:
            raise self._document.fault(where, f"{_what(table)} `{table.name}` reads nothing")
        ordered = {name: found[name] for name in names if name in found}
        return tuple({**ordered, **found}.values())

    def _implied(self, table: StepTable, port: StepPort, is_first: bool) -> str:
        """Return the source of an input that is not named; empty = an optional input gets nothing."""
        above = [*self._nodes.values()]
        is_chained = bool(above) and is_first and port.name not in above[-1].outputs
        if is_chained and (told := _chained(above[-1], port)):
            return told
        for node in reversed(above):
            if port.name in node.outputs:
                return f"{node.name}.{port.name}"
        if is_chained and port.column is None and port.name not in self._inputs:
            return f"{above[-1].name}.{next(iter(above[-1].outputs), '')}"  # named by the error
        if port.column is not None and any(step.name == port.name for step in self._document.steps):
            problem = f"step `{port.name}` has the name of a column that `{table.name}` reads"
            raise self._document.fault(f"steps.{port.name}", problem, "Give the step another name")
        if port.name in self._inputs or (port.column is not None and not self._document.inputs):
            return port.name
        if port.is_optional:
            return ""
        if not above and not self._document.inputs:
            return port.name
        if not above and is_first:
            return next(iter(self._inputs))
        problem = f"? -> {table.name}.{port.name}: no step above gives `{port.name}`"
        fix = f'Name its source: inputs = {{ {port.name} = "step.output" }}'
        raise self._document.fault(f"steps.{table.name}", problem, fix)

    def _source(
        self, told: str, path: str, place: str, port: StepPort | None = None
    ) -> tuple[str, EdgeType | None]:
        """Return the full name of a source and its type; an unknown name becomes an input."""
        step, dot, output = told.partition(".")
        node = self._nodes.get(step)
        if node is not None:
            self._read.add(step)
            output = output or next(iter(node.outputs), "")
            if output in node.outputs:
                return f"{step}.{output}", node.outputs[output]
            if node.step is None and not any(node.outputs.values()):  # a model that is not known here
                return f"{step}.{output}", None
            problem = f"{place}: step `{step}` has no output `{output}`"
            raise self._document.fault(path, problem, nearest(output, node.outputs, "It has"))
        if any(table.name == step for table in self._document.steps):
            raise self._document.fault(path, f"{place}: step `{step}` is not above it", "Steps run downwards")
        if dot or (self._document.inputs and told not in self._inputs):
            kind = "step" if dot else "step or input"
            known = [*self._nodes, *(() if dot else self._inputs)]
            raise self._document.fault(path, f"{place}: there is no {kind} `{step}`", nearest(step, known))
        self._wanted.add(told)
        if not path.startswith("outputs"):
            self._columns.setdefault(told, []).append(port.column if port else None)
        if told not in self._inputs:
            self._inputs[told] = self._inferred(told, path, place, port)
        return told, self._inputs[told]

    def _inferred(self, told: str, path: str, place: str, port: StepPort | None) -> EdgeType | None:
        if port is not None and port.column is not None:
            return port.pattern.filled({}, _NO_AXIS) or EdgeType(DataType.FP64, (-1,))
        close = nearest(told, self._nodes)
        if close.startswith("Did"):
            raise self._document.fault(path, f"{place}: there is no step or input `{told}`", close)
        if path.startswith("outputs"):
            raise self._document.fault(path, f"{place}: there is no step or input `{told}`", close)
        if port is None:  # a condition, or an input of a model that is not known here
            return None if ".inputs." in path else EdgeType(DataType.BOOL, (-1,))
        type = port.pattern.filled({}, _NO_AXIS)
        if type is None:
            fix = f'Declare it: [inputs] {told} = "FP32[-1]"'
            raise self._document.fault(path, f"{place}: the type of the input `{told}` is not known", fix)
        return type

    def _condition(self, table: StepTable) -> Edge | None:
        key = "when" if table.when else "unless"
        told = table.when or table.unless
        if not told:
            return None
        path, place = f"steps.{table.name}.{key}", f"{told} -> {table.name}.{key}"
        source, type = self._source(told, path, place)
        if type is not None and (type.datatype is not DataType.BOOL or len(type.shape) != 1):
            raise self._document.fault(
                path, f"{source} -> {table.name}.{key}: {type} where BOOL[-1] is wanted"
            )
        return Edge(source, key, type)

    def _check(self, edge: Edge, wanted: Pattern | None, bound: Bindings, where: str) -> None:
        """Raise LoadFailed if an edge's type is not what its end takes."""
        if wanted is None or edge.type is None:
            return
        before = dict(bound)
        if wanted.matches(edge.type, bound):
            return
        end = f"{where.removeprefix('steps.')}.{edge.port}"
        problem = f"{edge.source} -> {end}: {edge.type} where {shown(wanted, before)} is wanted"
        raise self._document.fault(f"{where}.inputs.{edge.port}", problem)

    def _rows(
        self,
        table: StepTable,
        step: Step | None,
        edges: tuple[Edge, ...],
        condition: Edge | None,
        outs: tuple[StepPort, ...],
    ) -> tuple[Axis, Axis | None]:
        """Return the rows of a step, and those of the lists that it takes apart or puts together."""
        where = f"steps.{table.name}"
        if step is not None and step.merges:
            return self._merged(table, edges), None
        items: Axis | None = None
        axis = _NO_AXIS
        for edge in edges:
            own = edge.type.axis if edge.type else _NO_AXIS
            if edge.is_item:
                if not own:
                    end = f"{table.name}.{edge.port}"
                    problem = f"{edge.source} -> {end}: {_rows_of(())} where items of lists are wanted"
                    raise self._document.fault(f"{where}.inputs.{edge.port}", problem)
                if items not in (None, own):
                    raise self._apart(table, edge, own, items or ())
                items, own = own, own[:-1]
            if not _is_below(own, axis) and not _is_below(axis, own):
                raise self._apart(table, edge, own, axis)
            axis = max(own, axis, key=len)
        if items is not None:
            if axis != items[:-1]:
                raise self._apart(table, edges[0], items, axis)
            if condition is not None:
                problem = f"step `{table.name}`: it puts lists together, and takes no condition"
                raise self._document.fault(f"{where}.{condition.port}", problem)
            return axis, items
        if condition is not None:
            axis = self._conditional(table, condition, axis)
        if any(port.pattern.is_item for port in outs):
            return axis, (*axis, table.name)
        return axis, None

    def _conditional(self, table: StepTable, condition: Edge, axis: Axis) -> Axis:
        own = condition.type.axis if condition.type else _NO_AXIS
        if not _is_below(own, axis) and not _is_below(axis, own):
            raise self._apart(table, condition, own, axis)
        part = _part(condition)
        deepest = max(own, axis, key=len)
        return deepest if part in deepest else (*deepest, part)

    def _merged(self, table: StepTable, edges: tuple[Edge, ...]) -> Axis:
        first, *others = (edge.type.axis if edge.type else _NO_AXIS for edge in edges)
        if _condition_of(first) and all(other in (first[:-1], _opposite(first)) for other in others):
            return first[:-1]
        if not others:
            problem = f"{edges[0].source} -> {table.name}: {_rows_of(first)} are no part of others"
            fix = "Give it the output of a step with `when` or `unless`"
            raise self._document.fault(f"steps.{table.name}", problem, fix)
        problem = (
            f"{edges[0].source} and {edges[1].source} -> {table.name}: {_rows_of(first)} and "
            f"{_rows_of(others[0])} are not opposite parts of the same rows"
        )
        fix = "Give the branches `when` and `unless` of one condition, or let `second` have all rows"
        raise self._document.fault(f"steps.{table.name}", problem, fix)

    def _apart(self, table: StepTable, edge: Edge, own: Axis, other: Axis) -> LoadFailed:
        end = f"{table.name}.{edge.port}"
        problem = f"{edge.source} -> {end}: {_rows_of(own)} where {_rows_of(other)} are wanted"
        return self._document.fault(f"steps.{table.name}.inputs.{edge.port}", problem, _TOGETHER)


def shown(wanted: Pattern, bound: Bindings) -> str:
    """Return what is wanted, as far as other edges have decided it."""
    full = wanted.filled(bound, _NO_AXIS)
    if full is None or ("..." in wanted.extents and "..." not in bound):
        return str(wanted)
    if wanted.kind not in bound and wanted.kind not in DataType.__members__:
        return f"{wanted.kind}[{','.join(map(str, full.shape))}]"
    return str(full)


def _is_below(one: Axis, other: Axis) -> bool:
    """Return whether the rows of one are those of the other, or parts of them."""
    return one[: len(other)] == other


def _stands_in(found: EdgeType, wanted: EdgeType) -> bool:
    """Return whether an edge may be in the place of another."""
    if found.datatype is not wanted.datatype or len(found.shape) != len(wanted.shape):
        return False
    return all(b in (-1, a) for a, b in zip(found.shape, wanted.shape, strict=True))


def _rows_of(axis: Axis) -> str:
    """Return whose rows they are, as error texts say it."""
    if not axis:
        return "the request's rows"
    key, _, condition = axis[-1].partition(" ")
    if condition:
        return f"the rows {_WITH[key]} {condition}"
    return f"the items of {key}"


def _part(condition: Edge) -> str:
    """Return the name of the rows for which a condition holds; names of steps have no blank."""
    return f"{condition.port} {condition.source}"


def _condition_of(axis: Axis) -> str:
    """Return the source of the condition that made rows; empty = none did."""
    return axis[-1].partition(" ")[2] if axis else ""


def _opposite(axis: Axis) -> Axis:
    """Return the rows for which a condition does not hold."""
    key = "unless" if axis[-1].startswith("when ") else "when"
    return (*axis[:-1], f"{key} {_condition_of(axis)}")


def _common(readers: Sequence[Column | None]) -> Column | None:
    """Return what callers send for a column, from what its readers take; None = it is no column."""
    known = [column for column in readers if column is not None]
    if not known:
        return None
    listed = next((column for column in known if column.categories), known[0])
    takes_null = len(known) == len(readers) and all(column.takes_null for column in known)
    is_read = any(column.is_read for column in known)
    return msgspec.structs.replace(listed, takes_null=takes_null, is_read=is_read)


def _what(table: StepTable) -> str:
    return f"step {table.use}" if table.use else f"model {table.model}"


def _chained(node: Node, port: StepPort) -> str:
    """Return the first output of a step that fits an input; empty = none does."""
    for name, type in node.outputs.items():
        if type is None or port.pattern.matches(type, {}):
            return f"{node.name}.{name}"
    return "" if node.outputs else f"{node.name}."


def _ports_of_model(
    signature: Signature | None,
) -> tuple[tuple[StepPort, ...], tuple[StepPort, ...], RowForm]:
    """Return inputs and outputs of a model, and how it takes rows."""
    if signature is None:
        return (), (), "rows"
    specs = (*signature.inputs, *signature.outputs)
    form: RowForm = "bare"
    if signature.batched:
        form = "rows"
    elif all(spec.shape[:1] == (1,) for spec in specs):
        form = "single"
    skipped = 0 if form == "bare" else 1

    def ports(side: tuple[TensorSpec, ...]) -> tuple[StepPort, ...]:
        return tuple(
            StepPort(
                spec.name,
                Pattern(spec.datatype.name, False, ("...",) if spec.any_rank else spec.shape[skipped:]),
                spec.optional,
                spec.column,
            )
            for spec in side
        )

    return ports(signature.inputs), ports(signature.outputs), form
