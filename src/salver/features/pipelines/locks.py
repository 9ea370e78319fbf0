"""Fingerprints of pipelines: what decides their answers, and how two of them differ. Pure.

A *fingerprint* holds the graph as it was resolved, the options of the steps, digests of the files and models,
and versions of libraries. ``pipeline.lock`` keeps one beside ``pipeline.toml``, so that a pipeline that was
changed since, or meets other libraries, is refused where it is loaded (:func:`differences`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from salver.features.pipelines.planning import Node, Plan
from salver.features.pipelines.statistics import Summary
from salver.words.errors import LoadFailed

LOCK: Final = "pipeline.lock"
_ORDERED: Final = msgspec.json.Encoder(order="sorted")
#: Digest of a model of which only its name is known: it may be any.
UNKNOWN: Final = ""


class StepPrint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Part of a fingerprint that one step has.

    Attributes:
        revision: That of the kind of step, which its author raises when it gives other results.
        options: Those that are not the defaults.
        inputs: Sources by input, and of ``when`` or ``unless``; also those that followed from names.
        on_error: What the file says of it.
    """

    use: str = ""
    model: str = ""
    version: str = ""
    revision: int = 0
    options: Mapping[str, Any] = {}
    inputs: Mapping[str, str] = {}
    on_error: Any = None


class Fingerprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Graph, options, files, models and libraries that decide the answers of a pipeline.

    Attributes:
        inputs: Types by name.
        outputs: Sources by name.
        files: Digests of the files that options name, by their paths in the folder.
        models: Digests by what ``model`` says; :data:`UNKNOWN` for one that is not there.
        libraries: Versions by name, their first two numbers.
    """

    inputs: Mapping[str, str] = {}
    outputs: Mapping[str, str] = {}
    steps: Mapping[str, StepPrint] = {}
    files: Mapping[str, str] = {}
    models: Mapping[str, str] = {}
    libraries: Mapping[str, str] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of the fingerprint."""
        return hashlib.sha256(_ORDERED.encode(self)).hexdigest()


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Content of a ``pipeline.lock``.

    Attributes:
        digest: That of the pipeline, for people and other programs.
        statistics: Those of the edges in training, by edge.
    """

    digest: str
    pipeline: Fingerprint
    statistics: Mapping[str, Summary] = {}


_LOCK: Final = msgspec.json.Decoder(Lock)


def step_print(node: Node) -> StepPrint:
    """Return what decides the answers of a step of a plan."""
    table, step = node.table, node.step
    options: dict[str, Any] = {}
    revision = 0
    if step is not None:
        told, revision = msgspec.json.decode(msgspec.json.encode(step)), step.revision
        for field in msgspec.structs.fields(step):
            if getattr(step, field.name) != field.default:
                options[field.encode_name] = told[field.encode_name]
    inputs = {edge.port: edge.source for edge in node.edges}
    if node.condition is not None:
        inputs[node.condition.port] = node.condition.source
    rule = None if table.on_error is None else msgspec.json.decode(msgspec.json.encode(table.on_error))
    return StepPrint(table.use, table.model, table.version, revision, options, inputs, rule)


def fingerprint(
    plan: Plan, files: Mapping[str, str], models: Mapping[str, str], libraries: Mapping[str, str]
) -> Fingerprint:
    """Return the fingerprint of a plan, with digests and versions that were read."""
    inputs = {name: str(type) for name, type in plan.inputs.items()}
    outputs = {output.name: output.source for output in plan.outputs}
    steps = {node.name: step_print(node) for node in plan.nodes}
    return Fingerprint(inputs, outputs, steps, files, models, libraries)


def differences(there: Fingerprint, here: Fingerprint) -> list[str]:
    """Return how a pipeline (here) differs from the locked one (there).

    >>> there, here = (Fingerprint(libraries={"pillow": version}) for version in ("12.0", "13.0"))
    >>> differences(there, here)
    ['pillow 12.0 there, 13.0 here']
    """
    return [*_differences(there, here)]


def _differences(there: Fingerprint, here: Fingerprint) -> Iterator[str]:
    yield from _pairs("input", there.inputs, here.inputs)
    for name, old, new in _both(there.steps, here.steps):
        if old is None:
            yield f"step `{name}` is here only"
        elif new is None:
            yield f"step `{name}` is there only"
        else:
            yield from _of_step(name, old, new)
    yield from _pairs("output", there.outputs, here.outputs)
    for file, old, new in _both(there.files, here.files):
        if old is None:
            yield f"{file} is read here only"
        elif new is None:
            yield f"{file} is read there only"
        elif old != new:
            yield f"{file} changed"
    for model, old, new in _both(there.models, here.models):
        # A model on one side only is a step on one side only, and named there.
        if old and new and old != new:
            yield f"model {model} changed"
    for library, old, new in _both(there.libraries, here.libraries):
        if old != new:
            yield f"{library} {old or 'was not used'} there, {new or 'is not used'} here"


def _of_step(name: str, there: StepPrint, here: StepPrint) -> Iterator[str]:
    where = f"step `{name}`:"
    for key in ("use", "model", "version", "revision", "on_error"):
        old, new = getattr(there, key), getattr(here, key)
        if old != new:
            yield f"{where} {key.replace('_', '-')} {_shown(old)} there, {_shown(new)} here"
    if there.use == here.use:
        for key, old, new in _both(there.options, here.options):
            if old != new:
                yield f"{where} {key} {_shown(old)} there, {_shown(new)} here"
    for key, old, new in _both(there.inputs, here.inputs):
        if old != new:
            yield f"{where} input {key} from {old or 'nothing'} there, {new or 'nothing'} here"


def _pairs(what: str, there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    for name, old, new in _both(there, here):
        if old != new:
            yield f"{what} `{name}` {old or 'is not'} there, {new or 'is not'} here"


def _both(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in (*there, *(name for name in here if name not in there)):
        yield name, there.get(name), here.get(name)


def _shown(value: Any) -> str:
    if value is None:
        return "its default"
    return msgspec.json.encode(value).decode()


def read(content: bytes, origin: str) -> Lock:
    """Return the content of a lock file.

    Raises:
        LoadFailed: it is not one.
    """
    try:
        return _LOCK.decode(content)
    except msgspec.MsgspecError as error:
        fix = "Write it anew: salver pipelines lock FOLDER"
        raise LoadFailed(f"{origin} is no lock file of a pipeline: {error}", fix=fix) from error


def written(lock: Lock) -> bytes:
    """Return the content of a lock file, the same for the same pipeline."""
    return msgspec.json.format(_ORDERED.encode(lock), indent=1) + b"\n"
