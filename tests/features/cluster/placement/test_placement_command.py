"""``salver placement explain``: what it says of a snapshot beside what its page shows."""

import json
from pathlib import Path

import pytest

from salver.features.cluster.placement.command import explain
from salver.testing.process import ServerProcess
from salver.words.errors import InvalidInput, NotFound

GIB = 1 << 30


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    nodes = [
        {"name": f"{zone}{number}", "zone": zone, "memory": GIB, "devices": 1}
        for zone in "ab"
        for number in (1, 2)
    ]
    wanted = [{"model": "pair", "memory": GIB, "gang": 2, "devices": 1}]
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"nodes": nodes, "wanted": wanted}))
    return path


def test_the_plan_for_programs_has_devices_and_reasons(
    snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(str(snapshot), without="a", json=True)
    plan = json.loads(capsys.readouterr().out)
    assert [(step["action"], step["key"], step["node"], step["devices"]) for step in plan["steps"]] == [
        ("start", ["pair", 0, 0], "b1", [0]),
        ("start", ["pair", 0, 1], "b2", [0]),
    ]
    assert {step["why"] for step in plan["steps"]} == {"a replica is missing; its gang fits in b"}


def test_a_model_is_explained_with_its_devices(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain(str(snapshot), model="pair")
    assert "its devices are 0" in capsys.readouterr().out
    explain(str(snapshot), model="pair", without="a1")
    explain(str(snapshot), model="pair", without="a")
    with pytest.raises(InvalidInput, match="no model 'other' is wanted"):
        explain(str(snapshot), model="other")
    with pytest.raises(InvalidInput, match="no node, zone or region is called 'c'"):
        explain(str(snapshot), without="c")


def test_a_server_tells_where_a_model_runs(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    explain("mlp", url=server.url)
    said = capsys.readouterr().out
    assert "cluster: this machine" in said and "an idle instance takes what waits" in said
    with pytest.raises(NotFound, match="model 'other' is not loaded here"):
        explain("other", url=server.url)
    with pytest.raises(InvalidInput, match="questions about a snapshot"):
        explain("mlp", url=server.url, without="a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no snapshot of a cluster"),
        ('{"nodes": [], "wanted": [], "zone": 1}', "unknown field `zone`"),
        ('{"nodes": [{"name": "a", "memory": -1}], "wanted": []}', "a: memory is 0 to"),
        ('{"nodes": [], "wanted": [{"model": "m", "memory": 1, "gang": 0}]}', "1 to 65536 parts"),
        ('{"nodes": [], "wanted": [{"model": "m", "memory": 1, "replicas": 1e9}]}', "replicas"),
        ('{"nodes": [{"name": "a", "memory": 1, "cores": 1e300}], "wanted": []}', "cores"),
    ],
)
def test_what_is_no_snapshot_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=said):
        explain(str(path))
