"""Archives of workflows: their nodes and the order of these (TS-A12).

An archive is a zip (``.war``) with ``WAR-INF/MANIFEST.json``, which names a YAML file, and a Python file with
the functions of those nodes that are no models. It is untrusted: its parts are limited and checked. Pure but
for reading the archive.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.dialects.torchserve.archive_files import is_inside
from salver.dialects.torchserve.model_yaml import allowed_range, read_keys
from salver.stores.unzip import is_zip, read_member
from salver.words.errors import BadArchive, BadGraph
from salver.words.handlers import MOST_WORKERS

MANIFEST: Final = "WAR-INF/MANIFEST.json"
_MOST_BYTES: Final = 1 << 20
_MOST_NAME: Final = 255
_MOST_NODES: Final = 256
_MOST_NUMBER: Final = 2**31 - 1
_MOST_RETRIES: Final = 100  # retries follow each other at once
#: Key of the specification -> field of a node, with its range.
_NUMBERS: Final[Mapping[str, tuple[str, int, int]]] = {
    "min-workers": ("least", 0, MOST_WORKERS),
    "max-workers": ("most", 1, MOST_WORKERS),
    "batch-size": ("batch_size", 1, _MOST_NUMBER),
    "max-batch-delay": ("max_batch_delay_ms", 0, _MOST_NUMBER),
    "retry-attempts": ("retries", 0, _MOST_RETRIES),
    "timeout-ms": ("timeout_ms", 1, _MOST_NUMBER),
}


class WorkflowArchive(msgspec.Struct, frozen=True):
    """Content of the manifest.

    Attributes:
        spec_file, handler: Paths inside; empty handler = all nodes are models.
    """

    name: str
    spec_file: str
    handler: str = ""


class Settings(msgspec.Struct, frozen=True):
    """Settings of a node.

    Attributes:
        most: Number of workers.
        retries: Further attempts after a failure.
        timeout_ms: Limit of one attempt.
    """

    least: int = 1
    most: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 50
    retries: int = 1
    timeout_ms: int = 10_000


class Node(msgspec.Struct, frozen=True):
    """A step of a workflow.

    Attributes:
        url: URL of its model; empty = a function of the workflow's own file.
        before: Nodes whose answers it gets, in the order of the file.
    """

    name: str
    url: str
    settings: Settings
    before: tuple[str, ...] = ()


class Workflow(msgspec.Struct, frozen=True):
    """A specification that can be run.

    Attributes:
        settings: Defaults of nodes.
        graph: Node -> its successors, as written.
        nodes: In an order in which they could run one after another.
        ends: Nodes without successors.
    """

    settings: Settings
    graph: Mapping[str, tuple[str, ...]]
    nodes: Mapping[str, Node]
    ends: tuple[str, ...]


def read_workflow(path: Path) -> WorkflowArchive:
    """Return the manifest of an archive. Blocking; nothing is unpacked.

    Raises:
        BadArchive: it is malformed; the message names the key.
    """
    if not is_zip(path):
        raise BadArchive(
            f"{path.name} is no archive of a workflow", fix="Create one with torch-workflow-archiver."
        )
    content = read_member(path, MANIFEST, _MOST_BYTES)
    if content is None:
        raise BadArchive(f"{path.name} has no {MANIFEST}", fix="Create it with torch-workflow-archiver.")
    try:
        whole = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadArchive(f"{path.name}: {MANIFEST} is no JSON: {error}") from error
    if not isinstance(whole, dict) or not isinstance(entry := whole.get("workflow"), dict):
        raise BadArchive(
            "Missing Workflow entry in manifest file.", fix=f"Add it to {MANIFEST} of {path.name}."
        )
    name, spec, handler = (_text(entry, key, path.name) for key in ("workflowName", "specFile", "handler"))
    if not spec:
        raise BadArchive(f"{path.name}: {MANIFEST} names no specFile")
    return WorkflowArchive(name, spec, handler)


def check_name(name: str) -> None:
    """Check the name of a workflow or node. Raises BadArchive."""
    if not name or len(name) > _MOST_NAME or not name.isprintable() or "/" in name:
        raise BadArchive(
            f"{name[:_MOST_NAME]!r} cannot be the name of a workflow or a node",
            fix=f"Use at most {_MOST_NAME} printable characters, and no slash.",
        )


def read_spec(path: Path, archive: WorkflowArchive) -> Workflow:
    """Return the specification of an archive. Blocking.

    Raises:
        BadArchive, BadGraph: it is missing, or cannot be run.
        MissingExtra: PyYAML is not installed.
    """
    content = read_member(path, archive.spec_file, _MOST_BYTES)
    if content is None:
        raise BadArchive(f"{path.name} has no '{archive.spec_file}', the specFile of its manifest")
    return parse(content, f"{path.name}: {archive.spec_file}", has_functions=bool(archive.handler))


def parse(content: bytes, where: str, *, has_functions: bool = True) -> Workflow:
    """Parse a specification.

    Args:
        where: Name of archive and file, for messages.
        has_functions: Whether the archive has a file with functions.

    Raises:
        BadArchive: a value is wrong; the message names the key.
        BadGraph: the graph cannot be run.
        MissingExtra: PyYAML is not installed.
    """
    values = read_keys(content, where)
    models = _mapping(values.get("models") or {}, "models", where)
    graph = _graph(values.get("dag"), where)
    before: dict[str, list[str]] = {}
    for source, targets in graph.items():
        before.setdefault(source, [])
        for target in targets:
            before.setdefault(target, []).append(source)
    if len(before) > _MOST_NODES:
        raise BadGraph(f"{where}: it has {len(before)} nodes, and the limit is {_MOST_NODES}")
    defaults = _settings(models, Settings(), "models", where)
    order = _in_order(graph, before)
    nodes = {}
    for name in order:
        model = models.get(name)
        if model is None and not has_functions:
            raise BadGraph(f"{where}: node {name} is no model, and the archive has no file with functions")
        nodes[name] = _node(name, model, defaults, before[name], where)
    return Workflow(defaults, graph, nodes, tuple(name for name in order if not graph.get(name)))


def _node(name: str, model: Any, defaults: Settings, before: Sequence[str], where: str) -> Node:
    check_name(name)
    if model is None:  # a function has one worker and no batches, as in TorchServe
        alone = Settings(max_batch_delay_ms=0, retries=defaults.retries, timeout_ms=defaults.timeout_ms)
        return Node(name, "", alone, tuple(before))
    at = f"models.{name}"
    values = _mapping(model, at, where)
    url = values.get("url")
    if not isinstance(url, str) or not url:
        raise BadArchive(
            f"{where}: {at} has no url", field=f"{at}.url", fix="Name an archive of the model store."
        )
    return Node(name, url, _settings(values, defaults, at, where), tuple(before))


def _graph(dag: Any, where: str) -> dict[str, tuple[str, ...]]:
    graph = {}
    if dag is None:
        dag = {}
    for source, targets in _mapping(dag, "dag", where).items():
        if isinstance(targets, str):
            targets = [targets]
        targets = targets or []
        if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
            raise BadArchive(f"{where}: dag.{source} is no list of nodes", field=f"dag.{source}")
        graph[source] = tuple(dict.fromkeys(each.strip() for each in targets if each.strip()))
    if not graph:
        raise BadGraph(f"{where}: it has no dag", field="dag", fix="List the successors of each node.")
    return graph


def _in_order(graph: Mapping[str, Sequence[str]], before: Mapping[str, Sequence[str]]) -> list[str]:
    """Sort the nodes topologically (Kahn, 1962)."""
    for source, targets in graph.items():
        if source in targets:
            raise BadGraph("Self loop exception", field=f"dag.{source}")
    starts = [name for name, sources in before.items() if not sources]
    if len(starts) != 1:
        raise BadGraph("DAG should have only one start node", field="dag")
    waiting = {name: len(sources) for name, sources in before.items()}
    order = starts
    for name in order:
        for target in graph.get(name, ()):
            waiting[target] -= 1
            if not waiting[target]:
                order.append(target)
    if len(order) != len(before):
        raise BadGraph("Not a valid DAG", field="dag", fix="Remove cycles.")
    return order


def _settings(values: Mapping[str, Any], defaults: Settings, at: str, where: str) -> Settings:
    fields = {}
    for key, (field, least, most) in _NUMBERS.items():
        value = values.get(key)
        if value is None:
            continue
        if type(value) is not int or not least <= value <= most:
            wanted = f"a whole number, {allowed_range(least, most)}"
            raise BadArchive(
                f"{where}: {at}.{key} is {value!r:.40}, and must be {wanted}", field=f"{at}.{key}"
            )
        fields[field] = value
    settings = msgspec.structs.replace(defaults, **fields)
    if settings.most < settings.least:
        raise BadArchive(
            f"{where}: {at}.max-workers is {settings.most}, less than min-workers, {settings.least}",
            field=f"{at}.max-workers",
        )
    return settings


def _mapping(value: Any, at: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadArchive(f"{where}: {at} is no mapping", field=at)
    return value


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str) or not is_inside(value.strip()):
        raise BadArchive(f"{where}: '{key}' of {MANIFEST} is {value!r:.80}, and must be a path inside of it")
    return value.strip()


def format_graph(graph: Mapping[str, Iterable[str]]) -> str:
    """Return a graph as TorchServe prints it.

    >>> format_graph({"a": ("b", "c"), "b": ("d",)})
    '{a=[b, c], b=[d]}'
    """
    return "{" + ", ".join(f"{source}=[{', '.join(targets)}]" for source, targets in graph.items()) + "}"
