"""Routes in a cluster: applied by server-side apply, marked, and refused with clear errors."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_api
import msgspec
import pytest
from kubernetes_api import Api

from salver.features.releases import command_route
from salver.features.releases.experiments import gateway_client
from salver.features.releases.experiments.gateway import RoutePlace, http_route
from salver.features.releases.experiments.gateway_client import Cluster
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.record import Release, proposed
from salver.testing.process import free_port
from salver.words.errors import Conflict, Forbidden, InvalidInput, NotFound, NotReady, Unauthenticated
from salver.words.releases import ReleaseState, Split

PATH = "/apis/gateway.networking.k8s.io/v1/namespaces/models/httproutes/fraud"
PLACE = RoutePlace("fraud", "web", stable="salver-stable", canary="salver-canary")
ROUTE = http_route(Split("r1", "fraud", stable="1", canary="2", weight=0.05, salt="s"), PLACE)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Api, Path]]:
    with kubernetes_api.running(tmp_path) as found:
        yield found


def test_a_route_is_applied_as_salvers(world: tuple[Api, Path]) -> None:
    api, kubeconfig = world
    assert Cluster(str(kubeconfig)).apply(ROUTE) == "models/fraud"
    assert api.objects == {PATH: ROUTE} and api.managers == {PATH: "salver"}
    assert ROUTE["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "salver"}
    assert api.tokens == ["Bearer secret"]
    assert Cluster(str(kubeconfig)).apply(ROUTE) == "models/fraud"


def test_what_another_manages_is_taken_over_only_if_asked(world: tuple[Api, Path]) -> None:
    api, kubeconfig = world
    api.objects[PATH], api.managers[PATH] = {**ROUTE, "spec": {}}, "kubectl-client-side-apply"
    cluster = Cluster(str(kubeconfig))
    with pytest.raises(Conflict, match=r"kubectl-client-side-apply.*\.spec\.rules.*--force-conflicts"):
        cluster.apply(ROUTE)
    cluster.apply(ROUTE, force=True)
    assert api.managers == {PATH: "salver"}


def test_the_namespace_is_that_of_the_context(world: tuple[Api, Path]) -> None:
    with pytest.raises(NotFound, match=r"default/fraud with 404: the server could not find.*Gateway API"):
        Cluster(str(world[1]), "there").apply(ROUTE)


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, Unauthenticated, "Are the credentials"),
        (403, Forbidden, "has to allow the verbs create and patch"),
        (422, InvalidInput, "models/fraud with 422: because"),
        (429, NotReady, "because"),
        (503, NotReady, "because"),
    ],
)
def test_refusals_tell_what_to_do(world: tuple[Api, Path], status: int, kind: type, text: str) -> None:
    world[0].refusal = (status, "because")
    with pytest.raises(kind, match=text):
        Cluster(str(world[1])).apply(ROUTE)


def test_a_cluster_that_is_away_is_named(world: tuple[Api, Path]) -> None:
    port = free_port()
    text = world[1].read_text()
    world[1].write_text(text.replace(text.split("127.0.0.1:")[1].split()[0], str(port)))
    with pytest.raises(NotReady, match=rf"the cluster at http://127.0.0.1:{port} is not reached"):
        Cluster(str(world[1])).apply(ROUTE)


@pytest.mark.parametrize("text", ["", "[]", "clusters: {", "current-context: x", "\x00"])
def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"no cluster is known from .*config: .*Give --kubeconfig"):
        Cluster(str(path))
    with pytest.raises(InvalidInput, match="no cluster is known"):
        Cluster(str(tmp_path / "none"))


def test_in_a_pod_its_service_account_is_used(
    world: tuple[Api, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kubernetes.config

    namespace = tmp_path / "namespace"
    namespace.write_text("models")
    port = world[1].read_text().split("127.0.0.1:")[1].split()[0]

    def load(client_configuration: Any) -> None:
        client_configuration.host = f"http://127.0.0.1:{port}"

    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(gateway_client, "_POD", namespace)
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", load)
    assert Cluster().apply(ROUTE) == "models/fraud"


class Store:
    """A release whose states are read one after the other."""

    def __init__(self, *states: Any) -> None:
        self._states = list(states)

    async def get(self, release: str) -> Release:
        found = self._states.pop(0)
        if isinstance(found, Exception):
            raise found
        return msgspec.structs.replace(proposed(release, "fraud", ("1", "2"), Policy(), 0.0), **found)


def stands(state: ReleaseState, weight: float) -> dict[str, Any]:
    return {"state": state, "weight": weight, "ended": 1.0 if weight in (0.0, 1.0) else None}


def shares(api: Api) -> list[int]:
    (rule,) = api.objects[PATH]["spec"]["rules"]
    return [backend["weight"] for backend in rule["backendRefs"]]


@pytest.mark.parametrize(
    ("end", "status", "last"), [("PROMOTED", 0, [0, 10_000]), ("ROLLED_BACK", 3, [10_000, 0])]
)
def test_a_route_follows_its_release(
    world: tuple[Api, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
    status: int,
    last: list[int],
) -> None:
    """Through a ledger that is away; when the release has ended, one version gets everything."""
    monkeypatch.setattr(command_route, "_LOOK_SECONDS", 0.0)
    running, final = stands(ReleaseState.RUNNING, 0.05), stands(ReleaseState[end], float(end == "PROMOTED"))
    store: Any = Store({}, running, running, NotReady("the ledger is away"), final)
    cluster = Cluster(str(world[1]))
    found = asyncio.run(command_route.apply(store, "r1", PLACE, cluster, follow=True, force=False))
    assert (found, shares(world[0])) == (status, last)
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == "HTTPRoute models/fraud: 5.00% to salver-canary, RUNNING"
    assert len(told.out.splitlines()) == 2 and told.err.count("the ledger is away") == 1


def test_a_release_that_has_not_started_has_no_route(world: tuple[Api, Path]) -> None:
    store: Any = Store({})
    with pytest.raises(Conflict, match="is PROPOSED, and shares no traffic out"):
        asyncio.run(
            command_route.apply(store, "r1", PLACE, Cluster(str(world[1])), follow=False, force=False)
        )
