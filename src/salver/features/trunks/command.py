"""``salver trunk``: cut ONNX models into a shared trunk and a head each."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from salver.features.trunks.checking import check
from salver.features.trunks.files import write
from salver.features.trunks.graph import Graph, common_cut, cut_at, head_of, trunk_of
from salver.terminal.options import Json
from salver.terminal.output import line, record
from salver.words.errors import InvalidInput, MissingExtra


def trunk(
    models: Annotated[tuple[Path, ...], Parameter(help="ONNX files.")],
    /,
    *,
    to: Annotated[Path, Parameter(help="Folder of models that the parts are written to.")],
    at: Annotated[
        str, Parameter(help="Tensor to cut one model at; empty = after all that the models share.")
    ] = "",
    name: Annotated[str, Parameter(help="Name of the trunk.")] = "trunk",
    together: Annotated[str, Parameter(help="Name of a pipeline that runs all heads; empty = none.")] = "",
    tolerance: Annotated[
        float, Parameter(help="Largest difference of an answer; 0 = equal bit by bit.")
    ] = 0.0,
    size: Annotated[
        int, Parameter(help="Free extents other than the rows, of the inputs that are tried.")
    ] = 16,
    json: Json = False,
) -> int:
    """Cut models into the part that they share, and a pipeline for each that runs it and then its own head.

    Several models are cut after all that they compute alike: the same operations on inputs of the same names
    with the same weights, bit by bit. The parts are compared with the models on random inputs before anything
    is written, and timed. The trunk is a model of its own: all pipelines share its batches and its weights.
    """
    if len(models) < 2 and not at:
        raise InvalidInput(
            "one model has nothing to share", field="--at", fix="Name a tensor, or give two models."
        )
    if len(models) > 1 and at:
        raise InvalidInput(
            "several models are cut after what they share", field="--at", fix="Leave --at out."
        )
    graphs = [Graph(label, _read(path)) for label, path in zip(_labels(models), models, strict=True)]
    cut = cut_at(graphs[0], at) if at else common_cut(graphs)
    shared = trunk_of(graphs[0], cut[0])
    heads = [head_of(graph, names) for graph, names in zip(graphs, cut, strict=True)]
    found = check(graphs, cut, shared, heads, size)
    if found.apart > tolerance:
        raise InvalidInput(
            f"cut at {', '.join(shared.outputs)}, the answers differ by up to {found.apart:.3g}: the cut "
            "stops "
            "an optimisation of the runtime",
            fix=f"Cut elsewhere, or allow it with --tolerance {2 * found.apart:.1g}.",
        )
    places = write(to, name, graphs, cut, shared, heads, together)
    whole = sum(len(graph.nodes) for graph in graphs)
    row: dict[str, Any] = {
        "cut": list(shared.outputs),
        "nodes": {"models": whole, "trunk": shared.nodes, "heads": [head.nodes for head in heads]},
        "apart": found.apart,
        "models_s": found.whole_s,
        "trunk_s": found.trunk_s,
        "heads_s": found.heads_s,
        "folders": [str(place) for place in places],
    }
    if json:
        record(row)
        return 0
    equal = "equal bit by bit" if not found.apart else f"within {found.apart:.3g}"
    kept = ", ".join(
        f"{graph.name} {head.nodes} of {len(graph.nodes)}" for graph, head in zip(graphs, heads, strict=True)
    )
    line(f"cut at {', '.join(shared.outputs)}; answers {equal}")
    line(f"trunk: {shared.nodes} nodes; heads: {kept}")
    times = f"one row: models {_ms(found.whole_s)}, trunk {_ms(found.trunk_s)} and heads {_ms(found.heads_s)}"
    if len(models) > 1:
        times += f", {1 - (found.trunk_s + found.heads_s) / found.whole_s:.0%} saved for who asks all"
    line(times)
    for place in places:
        line(f"written: {place}")
    return 0


def _read(path: Path) -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (it runs the parts, after much work)
    except ImportError as error:
        raise MissingExtra("onnx", "tune,onnx", error.name or "onnx") from error
    try:
        return onnx.load(str(path))
    except Exception as error:
        raise InvalidInput(f"{path} cannot be read as ONNX: {error}") from error


def _labels(paths: tuple[Path, ...]) -> list[str]:
    """Return a name for each model: of its file, or of the folder of its versions."""
    names = []
    for path in paths:
        label = path.stem
        if label == "model":
            folder = path.resolve().parent
            label = folder.parent.name if folder.name.isdecimal() else folder.name
        names.append(label)
    if len(set(names)) != len(names):
        raise InvalidInput(
            f"two of the models have the same name: {', '.join(names)}", fix="Rename the files."
        )
    return names


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
