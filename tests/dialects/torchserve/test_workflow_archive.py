"""Archives of workflows: what they say, and which cannot be run."""

import zipfile
from pathlib import Path

import pytest
from archivers import run_archiver
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve.workflow_archive import (
    MANIFEST,
    Settings,
    format_graph,
    parse,
    read_spec,
    read_workflow,
)
from salver.words.errors import BadArchive, BadGraph

_SPEC = """
models:
  min-workers: 1
  max-workers: 2
  batch-size: 4
  max-batch-delay: 10
  retry-attempts: 3
  timeout-ms: 5000
  count:
    url: words.mar
    max-workers: 5
dag:
  clean: [count]
  count: [left, right]
  left: [join]
  right: [join]
"""


def _war(path: Path, manifest: str | None = None, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as war:
        if manifest is not None:
            war.writestr(MANIFEST, manifest)
        for name, text in files.items():
            war.writestr(name.replace("__", "."), text)
    return path


@pytest.mark.clause("TS-A12", "TS-K3")
def test_an_archive_of_the_unmodified_archiver(tmp_path: Path) -> None:
    pytest.importorskip("workflow_archiver", reason="torch-workflow-archiver is not installed")
    spec, functions = tmp_path / "flow.yaml", tmp_path / "flow.py"
    spec.write_text(_SPEC)
    functions.write_text("def clean(data, context): return data\n")
    options = ["--workflow-name", "flow", "--spec-file", spec, "--handler", functions]
    run_archiver("torch-workflow-archiver", *options, "--export-path", tmp_path)
    path = tmp_path / "flow.war"
    archive = read_workflow(path)
    assert (archive.name, archive.spec_file, archive.handler) == ("flow", "flow.yaml", "flow.py")
    flow = read_spec(path, archive)
    assert flow.settings == Settings(1, 2, 4, 10, 3, 5000)
    assert list(flow.nodes) == ["clean", "count", "left", "right", "join"]
    assert flow.nodes["count"].settings.most == 5
    assert (flow.nodes["count"].url, flow.nodes["count"].before) == ("words.mar", ("clean",))
    assert flow.nodes["join"].before == ("left", "right")
    assert flow.nodes["clean"].settings == Settings(1, 1, 1, 0, 3, 5000)  # a function
    assert flow.ends == ("join",)
    assert format_graph(flow.graph) == "{clean=[count], count=[left, right], left=[join], right=[join]}"


@pytest.mark.clause("TS-A12")
def test_what_a_specification_leaves_out() -> None:
    flow = parse(b"dag:\n  a: b\n", "w")
    assert flow.settings == Settings(1, 1, 1, 50, 1, 10_000)
    assert list(flow.nodes) == ["a", "b"]
    assert list(parse(b"dag: {a: }", "w").nodes) == ["a"]


@pytest.mark.clause("TS-A12")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("dag:\n  a: [b]\n  b: [a]\n", "DAG should have only one start node"),
        ("dag:\n  a: [b]\n  c: [b]\n", "DAG should have only one start node"),
        ("dag:\n  a: [a]\n", "Self loop exception"),
        ("dag:\n  a: [b]\n  b: [c]\n  c: [b]\n", "Not a valid DAG"),
        ("models: {}\n", "it has no dag"),
        ("dag:\n  a: [" + ", ".join(f"n{n}" for n in range(300)) + "]\n", "it has 301 nodes"),
    ],
)
def test_graphs_that_cannot_be_run(spec: str, text: str) -> None:
    with pytest.raises(BadGraph, match=text):
        parse(spec.encode(), "w")


@pytest.mark.clause("TS-A12")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("models: [", "is not valid YAML"),
        ("models: 3\ndag: {a: [b]}", "models is no mapping"),
        ("models: {batch-size: many}\ndag: {a: [b]}", r"models\.batch-size is 'many'"),
        (
            "models: {retry-attempts: 2000000000}\ndag: {a: [b]}",
            r"retry-attempts is 2000000000.*from 0 to 100",
        ),
        ("models: {max-workers: 1025}\ndag: {a: [b]}", r"from 1 to 1024"),
        ("models: {batch-size: 0}\ndag: {a: [b]}", r"at least 1"),
        ("models: {timeout-ms: true}\ndag: {a: [b]}", r"timeout-ms is True"),
        ("models: {min-workers: 3}\ndag: {a: [b]}", r"max-workers is 1"),
        ("models: {a: {}}\ndag: {a: [b]}", r"models\.a has no url"),
        ("models: {a: 3}\ndag: {a: [b]}", r"models\.a is no mapping"),
        ("models: {a: {url: x, batch-size: -1}}\ndag: {a: [b]}", r"models\.a\.batch-size"),
        ("dag: {a: {b: c}}", r"dag\.a is no list"),
        ("dag: [a]", "dag is no mapping"),
        ("dag: {a/b: [c]}", "cannot be the name"),
        ("models: &x {a: *x}\ndag: {a: [b]}", "an alias refers to its own container"),
    ],
)
def test_values_that_cannot_be(spec: str, text: str) -> None:
    with pytest.raises((BadArchive, BadGraph), match=text):
        parse(spec.encode(), "w")


@pytest.mark.clause("TS-A12")
def test_functions_need_a_file() -> None:
    with pytest.raises(BadGraph, match="node a is no model"):
        parse(b"dag: {a: [b]}", "w", has_functions=False)


@pytest.mark.clause("TS-A12")
@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        (None, "has no WAR-INF/MANIFEST.json"),
        ("{", "is no JSON"),
        ("{}", "Missing Workflow entry"),
        ('{"workflow": {"workflowName": "w"}}', "names no specFile"),
        ('{"workflow": {"workflowName": 3, "specFile": "a"}}', "'workflowName'"),
        ('{"workflow": {"workflowName": "w", "specFile": "../a.yaml"}}', "'specFile'"),
        ('{"workflow": {"workflowName": "w", "specFile": "a.yaml", "handler": "/etc/x.py"}}', "'handler'"),
        ('{"workflow": {"workflowName": "w", "specFile": "a.yaml", "handler": " /etc/x.py"}}', "'handler'"),
        ('{"workflow": {"workflowName": "w", "specFile": " ../a.yaml"}}', "'specFile'"),
    ],
)
def test_manifests_that_cannot_be(tmp_path: Path, manifest: str | None, text: str) -> None:
    with pytest.raises(BadArchive, match=text):
        read_workflow(_war(tmp_path / "a.war", manifest))


@pytest.mark.clause("TS-A12")
def test_an_archive_without_what_it_names(tmp_path: Path) -> None:
    path = _war(tmp_path / "a.war", '{"workflow": {"workflowName": "w", "specFile": "a.yaml"}}')
    with pytest.raises(BadArchive, match=r"has no 'a\.yaml'"):
        read_spec(path, read_workflow(path))
    path.write_bytes(b"no zip")
    with pytest.raises(BadArchive, match="is no archive of a workflow"):
        read_workflow(path)


_names = st.sampled_from("abcdefgh")


@pytest.mark.clause("TS-A12")
@given(st.dictionaries(_names, st.lists(_names, max_size=4), min_size=1))
def test_any_graph_is_refused_or_in_order(graph: dict[str, list[str]]) -> None:
    spec = "dag:\n" + "".join(f"  {source}: [{', '.join(targets)}]\n" for source, targets in graph.items())
    try:
        flow = parse(spec.encode(), "w")
    except BadGraph:
        return
    seen: set[str] = set()
    for name, node in flow.nodes.items():
        assert seen.issuperset(node.before)
        seen.add(name)
    assert seen == {name for source, targets in graph.items() for name in (source, *targets)}
    assert set(flow.ends) == {name for name in seen if not graph.get(name)}
