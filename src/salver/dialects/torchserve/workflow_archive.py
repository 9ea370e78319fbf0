"""What does an archive of a workflow say: which nodes are there, and which comes after which (TS-A12)?

A zip (``.war``) with ``WAR-INF/MANIFEST.json``, which names a file in YAML and a Python file with the
functions of those nodes that are no models. All of it comes from outside: it is bounded and checked. Pure but
for the reading of the archive.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.dialects.torchserve.archive_files import is_inside
from salver.dialects.torchserve.model_yaml import read_keys
from salver.stores.unzip import is_zip, read_member
from salver.words.errors import BadArchive, BadGraph
from salver.words.handlers import MOST_WORKERS

MANIFEST: Final = "WAR-INF/MANIFEST.json"
_MOST_BYTES: Final = 1 << 20
_MOST_NAME: Final = 255
_MOST_NODES: Final = 256
_MOST_NUMBER: Final = 2**31 - 1
_MOST_RETRIES: Final = 100  # they follow each other at once
#: Key of the specification -> field of a node, and the least and the most that it may be.
_NUMBERS: Final[Mapping[str, tuple[str, int, int]]] = {
    "min-workers": ("least", 0, MOST_WORKERS),
    "max-workers": ("most", 1, MOST_WORKERS),
    "batch-size": ("batch_size", 1, _MOST_NUMBER),
    "max-batch-delay": ("max_batch_delay_ms", 0, _MOST_NUMBER),
    "retry-attempts": ("retries", 0, _MOST_RETRIES),
    "timeout-ms": ("timeout_ms", 1, _MOST_NUMBER),
}


class WorkflowArchive(msgspec.Struct, frozen=True):
    """What the manifest says.

    Attributes:
        spec_file, handler: Paths inside; an empty handler = all nodes are models.
    """

    name: str
    spec_file: str
    handler: str = ""


class Settings(msgspec.Struct, frozen=True):
    """How nodes are run.

    Attributes:
        most: Workers that there are.
        retries: Further tries of a node that failed.
        timeout_ms: So long one try may take.
    """

    least: int = 1
    most: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 50
    retries: int = 1
    timeout_ms: int = 10_000


class Node(msgspec.Struct, frozen=True):
    """A step.

    Attributes:
        url: Of its model; empty = it is a function of the workflow's own file.
        before: Nodes whose answers it gets, in their order in the file.
    """

    name: str
    url: str
    settings: Settings
    before: tuple[str, ...] = ()


class Workflow(msgspec.Struct, frozen=True):
    """What the specification says, of which is known that it can be run.

    Attributes:
        settings: Of nodes that say nothing else.
        graph: Node -> those that come after it, as it is written.
        nodes: In an order in which they could run one after another.
        ends: Nodes after which nothing comes.
    """

    settings: Settings
    graph: Mapping[str, tuple[str, ...]]
    nodes: Mapping[str, Node]
    ends: tuple[str, ...]


def read_workflow(path: Path) -> WorkflowArchive:
    """What an archive says of itself. Blocking; nothing is unpacked.

    Raises:
        BadArchive: it is none; the message names the key.
    """
    if not is_zip(path):
        raise BadArchive(
            f"{path.name} is no archive of a workflow", fix="Make one with torch-workflow-archiver."
        )
    content = read_member(path, MANIFEST, _MOST_BYTES)
    if content is None:
        raise BadArchive(f"{path.name} has no {MANIFEST}", fix="Make it with torch-workflow-archiver.")
    try:
        whole = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadArchive(f"{path.name}: {MANIFEST} is no JSON: {error}") from error
    said = whole.get("workflow") if isinstance(whole, dict) else None
    if not isinstance(said, dict):
        raise BadArchive("Missing Workflow entry in manifest file.", fix=f"It is {MANIFEST} of {path.name}.")
    name, spec, handler = (_text(said, key, path.name) for key in ("workflowName", "specFile", "handler"))
    if not spec:
        raise BadArchive(f"{path.name}: {MANIFEST} names no specFile")
    return WorkflowArchive(name, spec, handler)


def check_name(name: str) -> None:
    """Raises BadArchive: no workflow or node can be called that."""
    if not name or len(name) > _MOST_NAME or not name.isprintable() or "/" in name:
        raise BadArchive(
            f"{name[:_MOST_NAME]!r} cannot be the name of a workflow or a node",
            fix=f"Take at most {_MOST_NAME} printable characters, and no slash.",
        )


def read_spec(path: Path, archive: WorkflowArchive) -> Workflow:
    """The specification of an archive. Blocking.

    Raises:
        BadArchive, BadGraph: there is none that can be run.
        MissingExtra: nothing here reads YAML.
    """
    content = read_member(path, archive.spec_file, _MOST_BYTES)
    if content is None:
        raise BadArchive(
            f"{path.name} has no '{archive.spec_file}', which its manifest names as its specFile"
        )
    return parse(content, f"{path.name}: {archive.spec_file}", has_functions=bool(archive.handler))


def parse(content: bytes, where: str, *, has_functions: bool = True) -> Workflow:
    """A specification.

    Args:
        where: The archive and the file, for messages.
        has_functions: There is a file with functions.

    Raises:
        BadArchive: a value cannot be; the message names the key.
        BadGraph: the graph cannot be run.
        MissingExtra: nothing here reads YAML.
    """
    values = read_keys(content, where)
    models = _mapping(values.get("models") or {}, "models", where)
    graph = _graph(values.get("dag"), where)
    names = list(dict.fromkeys([name for source, targets in graph.items() for name in (source, *targets)]))
    if len(names) > _MOST_NODES:
        raise BadGraph(f"{where}: it has {len(names)} nodes, and at most {_MOST_NODES} are run")
    usual = _settings(models, Settings(), "models", where)
    before: dict[str, list[str]] = {name: [] for name in names}
    for source, targets in graph.items():
        for target in targets:
            before[target].append(source)
    order = _in_order(graph, before)
    nodes = {}
    for name in order:
        said = models.get(name)
        if said is None and not has_functions:
            raise BadGraph(f"{where}: node {name} is no model, and the archive has no file with functions")
        nodes[name] = _node(name, said, usual, before[name], where)
    return Workflow(usual, graph, nodes, tuple(name for name in order if not graph.get(name)))


def _node(name: str, said: Any, usual: Settings, before: Sequence[str], where: str) -> Node:
    check_name(name)
    if said is None:  # a function has one worker and no batches, as TorchServe has it
        alone = Settings(max_batch_delay_ms=0, retries=usual.retries, timeout_ms=usual.timeout_ms)
        return Node(name, "", alone, tuple(before))
    at = f"models.{name}"
    values = _mapping(said, at, where)
    url = values.get("url")
    if not isinstance(url, str) or not url:
        raise BadArchive(
            f"{where}: {at} has no url", field=f"{at}.url", fix="Name an archive of the model store."
        )
    return Node(name, url, _settings(values, usual, at, where), tuple(before))


def _graph(dag: Any, where: str) -> dict[str, tuple[str, ...]]:
    graph = {}
    for source, targets in _mapping(dag if dag is not None else {}, "dag", where).items():
        listed = [targets] if isinstance(targets, str) else targets or []
        if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
            raise BadArchive(f"{where}: dag.{source} is no list of nodes", field=f"dag.{source}")
        graph[source] = tuple(dict.fromkeys(each.strip() for each in listed if each.strip()))
    if not graph:
        raise BadGraph(f"{where}: it has no dag", field="dag", fix="Write which nodes come after each node.")
    return graph


def _in_order(graph: Mapping[str, Sequence[str]], before: Mapping[str, Sequence[str]]) -> list[str]:
    """The nodes, each after all before it (Kahn, 1962)."""
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
        raise BadGraph("Not a valid DAG", field="dag", fix="No node may come after itself.")
    return order


def _settings(values: Mapping[str, Any], usual: Settings, at: str, where: str) -> Settings:
    said = {}
    for key, (field, least, most) in _NUMBERS.items():
        value = values.get(key)
        if value is None:
            continue
        if type(value) is not int or not least <= value <= most:
            to = "on" if most == _MOST_NUMBER else f"to {most}"
            raise BadArchive(
                f"{where}: {at}.{key} is {value!r:.40}, and must be a whole number from {least} {to}",
                field=f"{at}.{key}",
            )
        said[field] = value
    made = msgspec.structs.replace(usual, **said)
    if made.most < made.least:
        raise BadArchive(
            f"{where}: {at}.max-workers is {made.most}, and min-workers {made.least}",
            field=f"{at}.max-workers",
        )
    return made


def _mapping(value: Any, at: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadArchive(f"{where}: {at} holds no keys with values", field=at)
    return value


def _text(said: Mapping[str, Any], key: str, where: str) -> str:
    value = said.get(key, "")
    path = value.strip() if isinstance(value, str) else ".."
    if not is_inside(path):
        raise BadArchive(f"{where}: '{key}' of {MANIFEST} is {value!r:.80}, and must be a path inside of it")
    return path


def written(graph: Mapping[str, Iterable[str]]) -> str:
    """The graph as TorchServe tells it.

    >>> written({"a": ("b", "c"), "b": ("d",)})
    '{a=[b, c], b=[d]}'
    """
    return "{" + ", ".join(f"{source}=[{', '.join(targets)}]" for source, targets in graph.items()) + "}"
