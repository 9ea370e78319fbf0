"""Folders of a trunk, its heads, and the pipelines that put them together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salver.features.trunks.graph import Cut, Graph, Part
from salver.words.errors import InvalidInput

_OUTSIDE = 1 << 30  # bytes above which weights go into a file of their own: a message holds at most 2 GiB


def write(
    folder: Path,
    name: str,
    models: Sequence[Graph],
    cut: Cut,
    trunk: Part,
    heads: Sequence[Part],
    together: str,
) -> list[Path]:
    """Write the trunk, a head and a pipeline for each model, and one pipeline for all; return their folders.

    Args:
        name: Of the trunk's model; heads are called as their models, with ``-head``.
        together: Name of the pipeline for all; empty = none.

    Raises:
        InvalidInput: a folder exists already.
    """
    steps = [f"{model.name}-head" for model in models]
    places = [folder / each for each in (name, *steps, *(model.name for model in models), together) if each]
    if len(set(places)) != len(places):
        raise InvalidInput(
            "two parts have the same name", fix="Choose other names with --name and --together."
        )
    for place in places:
        if place.exists():
            raise InvalidInput(f"{place} exists already", fix="Choose another folder, or remove it.")
    for each, part in ((name, trunk), *zip(steps, heads, strict=True)):
        _save(part.proto, folder / each / "1" / "model.onnx")
    all_outputs: dict[str, str] = {}
    for number, (model, head, names) in enumerate(zip(models, heads, cut, strict=True), 1):
        outputs = _sources(model, names, "head")
        _pipeline(folder / model.name, name, trunk, {"head": (f"{model.name}-head", head)}, outputs)
        sources = _sources(model, names, f"head_{number}")
        all_outputs |= {f"{model.name}_{output}": source for output, source in sources.items()}
    if together:
        named = {f"head_{n}": pair for n, pair in enumerate(zip(steps, heads, strict=True), 1)}
        _pipeline(folder / together, name, trunk, named, all_outputs)
    return places


def _sources(model: Graph, names: Mapping[str, str], step: str) -> dict[str, str]:
    """Return where each output of a model comes from: the trunk, or its head."""
    return {
        output: f"trunk.{names[output]}" if output in names else f"{step}.{output}"
        for output in model.outputs
    }


def _pipeline(
    folder: Path,
    name: str,
    trunk: Part,
    heads: Mapping[str, tuple[str, Part]],
    outputs: Mapping[str, str],
) -> None:
    lines = ["# Made by salver trunk.", "[steps.trunk]", f'model = "{name}"', _inputs(trunk.inputs, {})]
    for step, (model, head) in heads.items():
        sources = {each: f"trunk.{each}" for each in trunk.outputs}
        lines += ["", f"[steps.{step}]", f'model = "{model}"', _inputs(head.inputs, sources)]
    lines += ["", "[outputs]", *(f'"{key}" = "{source}"' for key, source in outputs.items()), ""]
    folder.mkdir(parents=True)
    (folder / "pipeline.toml").write_text("\n".join(lines))


def _inputs(names: Sequence[str], sources: Mapping[str, str]) -> str:
    told = ", ".join(f'"{name}" = "{sources.get(name, name)}"' for name in names)
    return f"inputs = {{ {told} }}"


def _save(proto: Any, path: Path) -> None:
    import onnx

    path.parent.mkdir(parents=True)
    is_large = proto.ByteSize() > _OUTSIDE
    onnx.save(proto, str(path), save_as_external_data=is_large, location=f"{path.name}.data")
