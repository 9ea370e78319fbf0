"""Cuts of ONNX graphs: what several models compute bit for bit alike, and the parts on both sides of a cut.

Two tensors of different models are equal if they come from the same operations with the same attributes on
equal tensors, down to inputs of the same name and type and to weights of the same bytes. Pure, over messages
of ``onnx``.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from salver.words.errors import InvalidInput

#: Nodes that both sides of a cut may run, as a share of the model's, so that the cut is worth its price.
_MOST_TWICE: Final = 0.1
_NEAR: Final = 400  # tensors around a bad cut among which a better one is looked for


class Graph:
    """One model with an index of its graph.

    Args:
        proto: A ``ModelProto`` with its weights. Its nodes are in an order in which they can run.

    Attributes:
        maker: Index of the node that makes a tensor.
        live: Tensors that depend on an input.
    """

    def __init__(self, name: str, proto: Any) -> None:
        import onnx

        self.name = name
        try:
            self.proto = onnx.shape_inference.infer_shapes(proto)
        except Exception as error:  # of protobuf, for one beyond 2 GiB, too
            raise InvalidInput(f"the shapes of {name} cannot be inferred: {error}") from error
        graph = self.proto.graph
        self.weights: dict[str, Any] = {each.name: each for each in graph.initializer}
        self.inputs: dict[str, Any] = {
            each.name: each for each in graph.input if each.name not in self.weights
        }
        self.outputs: dict[str, Any] = {each.name: each for each in graph.output}
        self.types: dict[str, Any] = {
            each.name: each for each in (*graph.input, *graph.value_info, *graph.output)
        }
        self.nodes: Sequence[Any] = graph.node
        self.reads = [_reads(node) for node in self.nodes]
        self.maker = {made: at for at, node in enumerate(self.nodes) for made in node.output if made}
        self.live = set(self.inputs)
        for node, reads in zip(self.nodes, self.reads, strict=True):
            if not self.live.isdisjoint(reads):
                self.live.update(made for made in node.output if made)

    def __repr__(self) -> str:
        return f"<Graph {self.name}, {len(self.nodes)} nodes>"

    def rows_first(self, tensor: str) -> bool:
        """Return whether the first extent of a tensor is free, as that of rows is."""
        shape = self.types[tensor].type.tensor_type.shape if tensor in self.types else None
        return bool(shape and shape.dim and not shape.dim[0].HasField("dim_value"))

    def before(self, wanted: Iterable[str], stop: Collection[str] = ()) -> tuple[set[int], set[str]]:
        """Return the nodes that make some tensors, and the inputs and tensors of ``stop`` that they need."""
        nodes: set[int] = set()
        needs: set[str] = set()
        open_ = list(wanted)
        while open_:
            tensor = open_.pop()
            if tensor in stop or tensor in self.inputs:
                needs.add(tensor)
            elif (at := self.maker.get(tensor)) is not None and at not in nodes:
                nodes.add(at)
                open_ += self.reads[at]
        return nodes, needs


#: For each model, its names of the tensors at which it is cut, and their names in the parts. The trunk is
#: that of the first model.
Cut = Sequence[Mapping[str, str]]


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        proto: Its ``ModelProto``.
        inputs, outputs: Names of its tensors.
        nodes: Number of its nodes.
    """

    proto: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int


def cut_at(model: Graph, tensor: str) -> Cut:
    """Return the cut of a model at a tensor.

    Raises:
        InvalidInput: there is no such tensor, or much of the model would run on both sides; names a better
            one.
    """
    if tensor not in model.maker:
        known = [name for name in model.maker if name in model.live]
        raise InvalidInput(
            f"{model.name} computes no tensor {tensor!r}",
            field="--at",
            fix=f"Some that it does: {_few(known)}.",
        )
    if tensor in model.outputs or tensor not in model.live:
        what = "is an output" if tensor in model.outputs else "depends on no input"
        raise InvalidInput(f"{tensor!r} of {model.name} {what}, so nothing is cut there", field="--at")
    if _twice(model, tensor) > _MOST_TWICE * len(model.nodes):
        raise InvalidInput(
            f"after {tensor!r}, {model.name} still needs {_twice(model, tensor)} of its {len(model.nodes)} "
            "nodes, which are before it",
            field="--at",
            fix=f"Cut at {_nearest_cut(model, tensor)}.",
        )
    return [{tensor: _plain(tensor)}]


def common_cut(models: Sequence[Graph]) -> Cut:
    """Return the cut after all that several models compute alike.

    Raises:
        InvalidInput: they share no computation.
    """
    digests = [_digests(model) for model in models]
    shared = set.intersection(*(set(each.values()) for each in digests))
    first = models[0]
    by_digest = [{digest: name for name, digest in each.items()} for each in digests]
    ends: dict[bytes, None] = {}
    for model, own in zip(models, digests, strict=True):
        for tensor in _frontier(model, {name for name, digest in own.items() if digest in shared}):
            ends[own[tensor]] = None
    if not ends:
        names = ", ".join(model.name for model in models)
        raise InvalidInput(
            f"{names} share no computation of their inputs",
            fix="They must have inputs of the same names and types, and the same weights bit for bit.",
        )
    plain: dict[bytes, str] = {}
    for digest in ends:
        name = _plain(by_digest[0][digest])
        while name in plain.values() or name in first.inputs:
            name += "_"
        plain[digest] = name
    return [{each[digest]: plain[digest] for digest in ends} for each in by_digest]


def trunk_of(model: Graph, names: Mapping[str, str]) -> Part:
    """Return the part of a model before a cut.

    Args:
        names: New names of the tensors of the cut.
    """
    return _part(model, names, {}, list(names))


def head_of(model: Graph, names: Mapping[str, str]) -> Part:
    """Return the part of a model after a cut.

    Args:
        names: New names of the tensors of the cut.

    Raises:
        InvalidInput: nothing of the model is after the cut.
    """
    ends = [name for name in model.outputs if name not in names]
    if not ends:
        raise InvalidInput(
            f"all of {model.name} is before the cut",
            fix="Serve the model that holds all of it, and no trunk.",
        )
    return _part(model, names, names, ends)


def _part(model: Graph, renamed: Mapping[str, str], given: Mapping[str, str], ends: Sequence[str]) -> Part:
    import onnx

    nodes, needs = model.before(ends, given)
    inputs = [name for name in (*model.inputs, *given) if name in needs]
    if missing := [name for name in (*inputs, *ends) if name not in model.types]:
        raise InvalidInput(f"the type of {missing[0]!r} of {model.name} cannot be inferred", field="--at")
    kept = [model.nodes[at] for at in sorted(nodes)]
    used = {name for at in nodes for name in model.reads[at]} | set(ends)
    weights = [each for name, each in model.weights.items() if name in used]
    graph = onnx.helper.make_graph(
        [_renamed(node, renamed) for node in kept],
        model.proto.graph.name or "part",
        [_typed(model, name, renamed) for name in inputs],
        [_typed(model, name, renamed) for name in ends],
        weights,
    )
    made = {name for node in kept for name in node.output}
    graph.value_info.extend(
        each for each in model.proto.graph.value_info if each.name in made and each.name not in renamed
    )
    proto = onnx.helper.make_model(graph, opset_imports=model.proto.opset_import, producer_name="salver")
    proto.ir_version = model.proto.ir_version
    proto.functions.extend(model.proto.functions)
    new = [renamed.get(name, name) for name in inputs], [renamed.get(name, name) for name in ends]
    return Part(proto, tuple(new[0]), tuple(new[1]), len(kept))


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """Return a copy of a node with other names of some tensors."""
    copy = type(node)()
    copy.CopyFrom(node)
    for field in (copy.input, copy.output):
        field[:] = [names.get(name, name) for name in field]
    for graph in _subgraphs(copy):
        graph.node.extend([_renamed(graph.node.pop(0), names) for _ in range(len(graph.node))])
    return copy


def _typed(model: Graph, name: str, names: Mapping[str, str]) -> Any:
    copy = type(model.types[name])()
    copy.CopyFrom(model.types[name])
    copy.name = names.get(name, name)
    return copy


def _digests(model: Graph) -> dict[str, bytes]:
    """Return what each tensor is computed from, as a digest."""
    found: dict[str, bytes] = {"": b""}
    for name, each in model.inputs.items():
        found[name] = _digest(b"input", name.encode(), each.type.SerializeToString(deterministic=True))
    for name, weight in model.weights.items():
        found[name] = _digest_of_weight(weight)
    versions = {each.domain: each.version for each in model.proto.opset_import}
    for at, node in enumerate(model.nodes):
        # What runs a graph of its own, or draws numbers, equals nothing.
        is_unique = any(True for _ in _subgraphs(node)) or node.op_type.startswith(("Random", "Multinomial"))
        attributes = sorted(each.SerializeToString(deterministic=True) for each in node.attribute)
        told = f"{node.domain}:{node.op_type}:{versions.get(node.domain, 0)}"
        if is_unique:
            told = f"{model.name}:{at}"
        own = _digest(told.encode(), *attributes, *(found.get(name, name.encode()) for name in node.input))
        for number, name in enumerate(node.output):
            if name:
                found[name] = _digest(own, str(number).encode())
    return {name: digest for name, digest in found.items() if name in model.live}


def _digest(*told: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=20)
    for each in told:
        state.update(len(each).to_bytes(8, "big"))
        state.update(each)
    return state.digest()


def _digest_of_weight(weight: Any) -> bytes:
    import onnx

    array = onnx.numpy_helper.to_array(weight)
    return _digest(str(weight.data_type).encode(), str(array.shape).encode(), array.tobytes())


def _frontier(model: Graph, shared: set[str]) -> list[str]:
    """Return the shared tensors at which the rest of a model can begin."""
    stops = {name for name in shared if name in model.maker and model.rows_first(name)}
    rest = [name for name in model.outputs if name not in stops]
    ends = [name for name in model.outputs if name in stops]
    # From the outputs backwards to the first tensors that are shared. What has no rows, such as a shape, is
    # cheap and computed on both sides.
    _, needs = model.before(rest, stops)
    return sorted(stops.intersection((*needs, *ends)), key=model.maker.__getitem__)


def _twice(model: Graph, tensor: str) -> int:
    """Return the number of nodes that both sides of a cut would run."""
    before, _ = model.before([tensor])
    after, _ = model.before(model.outputs, (tensor,))
    return len(before & after)


def _nearest_cut(model: Graph, tensor: str) -> str:
    """Return the nearest place of a good cut, as a text."""
    at = model.maker[tensor]
    inner = [n for n in model.maker if n in model.live and n not in model.outputs and model.rows_first(n)]
    for name in sorted(inner, key=lambda name: abs(model.maker[name] - at))[:_NEAR]:
        if (twice := _twice(model, name)) <= _MOST_TWICE * len(model.nodes):
            return f"{name!r}, after which {twice} are needed again"
    return "a tensor through which all of the model goes; there is none near this one"


def _reads(node: Any) -> list[str]:
    """Return the tensors that a node reads, those of the graphs inside of it included."""
    found = [name for name in node.input if name]
    for graph in _subgraphs(node):
        own = {each.name for each in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            found += [name for name in _reads(inner) if name not in own]
            own.update(inner.output)
        found += [each.name for each in graph.output if each.name not in own]
    return found


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _plain(name: str) -> str:
    """Return a name for an edge of a pipeline.

    >>> _plain("/layer.0/Add_output_0")
    'layer_0_Add_output_0'
    """
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "cut"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[len(names) // 4 :: max(1, len(names) // 4)][:4])
