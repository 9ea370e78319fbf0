"""Reading of ``pipeline.toml``: steps, the edges that they name, and their options, with nothing unknown.

Pure. What the steps are, and whether they fit, is for :mod:`salver.features.pipelines.planning`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from salver.features.pipelines.edges import EdgeType, edge_type
from salver.features.pipelines.rescue import OnError, on_error
from salver.features.pipelines.running import AS_IS, KEYS, Running, Unfit, running
from salver.kernel.repository.toml import read_document
from salver.words.errors import InvalidInput, LoadFailed

FILE: Final = "pipeline.toml"
_TOP: Final = ("inputs", "outputs", "steps", "statistics")
#: Keys of every step; all others are options of its kind.
_KEYS: Final = ("use", "model", "version", "inputs", "when", "unless", "on-error", "time-share", *KEYS)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MOST_STEPS: Final = 1000


class StepTable(msgspec.Struct, frozen=True):
    """Table of one step.

    Attributes:
        use: Kind of the step; empty = it is a model.
        model: Name of a model of the same server, or a file or folder beside ``pipeline.toml``.
        inputs: Sources of its inputs, by their names.
        when, unless: Source of a condition; the step runs on the rows for which it is true, or false.
        on_error: What stands in for its outputs if it fails; None = its request fails.
        time_share: Largest part of a request's time that it may take; 0 = any.
        how: How it runs.
    """

    name: str
    use: str = ""
    model: str = ""
    version: str = ""
    inputs: Mapping[str, str] = {}
    when: str = ""
    unless: str = ""
    options: Mapping[str, Any] = {}
    on_error: OnError | None = None
    time_share: float = 0.0
    how: Running = AS_IS


class Document(msgspec.Struct, frozen=True):
    """Content of a ``pipeline.toml``.

    Attributes:
        inputs: Declared inputs; without any, they follow from the steps.
        outputs: Sources of the outputs; without any, the outputs of the last step.
        sample: Part of the requests of which statistics are made.
    """

    origin: str
    text: str
    inputs: Mapping[str, EdgeType]
    outputs: Mapping[str, str]
    steps: tuple[StepTable, ...]
    sample: float = 0.0

    def fault(self, path: str, problem: str, fix: str = "") -> LoadFailed:
        """Return the error of the key at a path such as ``steps.tokens.inputs.text``."""
        return LoadFailed(f"{self.origin}: {line_of(self.text, path)}{problem}", field=path, fix=fix)

    def running(self, step: str, how: Running) -> "Document":
        """Return it with another way to run a step."""
        steps = (
            msgspec.structs.replace(table, how=how) if table.name == step else table for table in self.steps
        )
        return msgspec.structs.replace(self, steps=tuple(steps))

    def check(self, table: StepTable, unfit: Unfit | None) -> None:
        """Raise LoadFailed if a step cannot run as its table says."""
        if unfit is not None:
            where = f"steps.{table.name}.{unfit.key}"
            raise self.fault(where, f"step `{table.name}`: {unfit.problem}", unfit.fix)


def nearest(name: str, known: Iterable[str], what: str = "Known here") -> str:
    """Return what to do about an unknown name."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1, 0.5)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"{what}: {', '.join(names) or 'none'}"


def line_of(text: str, path: str) -> str:
    """Return ``line 3: `` for the line that sets a key of a table, or else the table; empty if none does.

    >>> line_of('[steps.a]\\nuse = "x"\\n[steps.b]\\nuse = "y"', "steps.b.use")
    'line 4: '
    """
    parts = path.split(".")
    found, depth, header = 0, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if heading := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            header = re.sub(r"[\s\"']", "", heading[1])
            own = header.split(".")
            if own == parts[: len(own)] and len(own) > depth:
                found, depth = number, len(own)
            continue
        inside = header.split(".") if header else []
        if inside != parts[: len(inside)] or len(inside) == len(parts):
            continue
        # `key = …`, `a.key = …`, or `{ key = … }` in the value of a key above it.
        keys = re.findall(r"(?:^|[{,])\s*[\"']?([\w.-]+)[\"']?\s*=", line)
        for known in range(len(parts), max(depth, len(inside)), -1):
            if ".".join(parts[len(inside) : known]) in keys or parts[known - 1] in keys[1:]:
                found, depth = number, known
                break
    return f"line {found}: " if found else ""


def parse(content: bytes, origin: str) -> Document:
    """Return the content of a file.

    Raises:
        LoadFailed: it is not TOML, or has a key that is not known; names the line and the nearest key.
    """
    try:
        table, text = read_document(content, origin)
    except InvalidInput as error:
        raise LoadFailed(error.message, fix=error.fix) from error
    bare = Document(origin, text, {}, {}, ())
    for key, value in table.items():
        if key not in _TOP:
            raise bare.fault(key, f"unknown key `{key}`", nearest(key, _TOP))
        if not isinstance(value, dict):
            raise bare.fault(key, f"`{key}` must be a table")
    inputs = {}
    for name, told in _texts(bare, "inputs", table.get("inputs", {})).items():
        try:
            inputs[name] = edge_type(told)
        except ValueError as error:
            raise bare.fault(f"inputs.{name}", f"input `{name}`: {error}") from error
    steps = tuple(_step(bare, name, value) for name, value in table.get("steps", {}).items())
    if not 0 < len(steps) <= _MOST_STEPS:
        fix = 'Add, for example: [steps.network] model = "network.onnx"'
        raise LoadFailed(f"{origin} has {len(steps)} steps; it needs 1 to {_MOST_STEPS}", fix=fix)
    outputs = _texts(bare, "outputs", table.get("outputs", {}))
    for name in {step.name for step in steps} & inputs.keys():
        raise bare.fault(f"inputs.{name}", f"`{name}` is an input and a step")
    sample = _sample(bare, table.get("statistics", {}))
    return msgspec.structs.replace(bare, inputs=inputs, outputs=outputs, steps=steps, sample=sample)


def _sample(document: Document, value: Mapping[str, Any]) -> float:
    """Return ``sample`` of ``[statistics]``."""
    for key in value:
        if key != "sample":
            fix = nearest(key, ("sample",))
            raise document.fault(f"statistics.{key}", f"unknown key `{key}` of [statistics]", fix)
    sample = value.get("sample", 0.0)
    if not isinstance(sample, float | int) or not 0 <= sample <= 1:
        fix = "Write sample = 0.01 for every hundredth request"
        raise document.fault("statistics.sample", "`sample` of [statistics] is a part from 0 to 1", fix)
    return float(sample)


def _texts(document: Document, path: str, value: Any) -> dict[str, str]:
    """Return a table of texts by name."""
    if not isinstance(value, dict):
        raise document.fault(path, f"`{path}` must be a table of names")
    for name, told in value.items():
        if not isinstance(told, str) or not told:
            raise document.fault(f"{path}.{name}", f"`{path}.{name}` must be a text, not {told!r}")
    return dict(value)


def _step(document: Document, name: str, value: Any) -> StepTable:
    path = f"steps.{name}"
    if not isinstance(value, dict):
        raise document.fault(path, f"`{path}` must be a table")
    if not _NAME.fullmatch(name):
        raise document.fault(path, f"step {name!r}: its name has letters, digits, `_` and `-` only")
    texts = {}
    for key in ("use", "model", "version", "when", "unless"):
        texts[key] = value.get(key, "")
        if not isinstance(texts[key], str):
            raise document.fault(f"{path}.{key}", f"`{path}.{key}` must be a text")
    if bool(texts["use"]) == bool(texts["model"]):
        said = "both `use` and `model`" if texts["use"] else "neither `use` nor `model`"
        fix = 'Write use = "softmax" for a step, or model = "network.onnx" for a model'
        raise document.fault(path, f"step `{name}` has {said}", fix)
    if texts["when"] and texts["unless"]:
        raise document.fault(f"{path}.unless", f"step `{name}` has both `when` and `unless`")
    options = {key: told for key, told in value.items() if key not in _KEYS}
    for key in options if texts["model"] else ():
        raise document.fault(f"{path}.{key}", f"unknown key `{key}` of a model's step", nearest(key, _KEYS))
    inputs = _texts(document, f"{path}.inputs", value.get("inputs", {}))
    try:
        rule = on_error(value.get("on-error", "fail"))
    except ValueError as error:
        raise document.fault(f"{path}.on-error", f"step `{name}`: {error}") from error
    share = value.get("time-share", 0.0)
    if "time-share" in value and (not isinstance(share, float | int) or not 0 < share <= 1):
        raise document.fault(f"{path}.time-share", f"step `{name}`: `time-share` is above 0 and at most 1")
    table = StepTable(name, inputs=inputs, options=options, on_error=rule, time_share=share, **texts)
    how = running(value)
    if isinstance(how, Running):
        return msgspec.structs.replace(table, how=how)
    document.check(table, how)
    return table
