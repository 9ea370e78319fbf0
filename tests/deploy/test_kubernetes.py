"""The chart and the plain manifests: valid objects, restricted pods, and arguments that start Salver."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zoo
from charts import CHART, MANIFESTS, PLAIN, helm, template, with_helm
from crds import Schemas
from pods import Container
from pushing import BODY, push
from registries import open_registry
from relay import DatabaseRelay
from s3 import KEYS, S3, s3_server
from waiting import until

import salver
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.features.registry.registry import ModelRegistry
from salver.testing.process import free_port

ROOT = Path(__file__).parents[2]
VALUES = sorted((PLAIN / "values").glob("*.yaml"))
OBJECTS = {path.stem: [*yaml.safe_load_all((PLAIN / path.name).read_text())] for path in VALUES}
DEPLOYMENTS = {
    each["metadata"]["name"] + f" of {name}": each
    for name, objects in OBJECTS.items()
    for each in objects
    if each["kind"] == "Deployment"
}
IN_S3 = "s3://models/"
EVERY_OPTION = {
    "imagePullSecrets": [{"name": "registry"}],
    "groups": {
        "main": {
            "models": {"uri": f"{IN_S3}live"},
            "access": {"allowAnonymous": True},
            "env": {"AWS_REGION": "eu-west-1", "OMP_NUM_THREADS": 2},
            "args": ["--log-level=debug"],
            "autoscaling": {"kind": "hpa", "loadRatio": 0.5},
            "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
            "maxUnavailable": "25%",
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "podSecurityContext": {"fsGroup": 1000},
            "pod": {"nodeSelector": {"pool": "models"}, "tolerations": [{"operator": "Exists"}]},
        }
    },
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/models"}},
    "networkPolicy": {"egress": []},
    "monitoring": {"serviceMonitor": True, "labels": {"release": "prometheus"}},
}


@with_helm
@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_plain_manifests_are_what_the_chart_renders(values: Path) -> None:
    """``python scripts/manifests.py`` writes them."""
    assert MANIFESTS["rendered"](values) == (PLAIN / values.name).read_text()
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--values", values)


@with_helm
@pytest.mark.parametrize("version", ["1.35", "1.36", "1.37"])
def test_every_object_is_valid(tmp_path: Path, version: str) -> None:
    schemas = Schemas(version)
    rendered = [each for objects in OBJECTS.values() for each in objects]
    rendered += template(tmp_path, EVERY_OPTION)
    assert not [error for each in rendered for error in schemas.errors(each)]
    kinds = {each["kind"] for each in rendered}
    assert kinds >= {"ScaledObject", "ServiceMonitor", "HorizontalPodAutoscaler", "NetworkPolicy"}
    for each in rendered:  # a schema that takes everything would prove nothing
        assert schemas.errors({**each, "spek": {}}), each["kind"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_are_restricted_and_have_time_to_drain(name: str) -> None:
    """Pod Security Standards, "restricted", and a root that nobody writes to."""
    pod = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {kind for each in pod["volumes"] for kind in each} <= {
        *("name", "emptyDir", "persistentVolumeClaim", "image", "secret")
    }
    assert pod["automountServiceAccountToken"] is False
    drain = [word.partition("=")[2] for word in container["args"] if "-delay" in word or "grace" in word]
    assert len(drain) == 2 and sum(map(int, drain)) < pod["terminationGracePeriodSeconds"]


@with_helm
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"models": {}}, "group main has no models: set models.claim"),
        ({"models": {"claim": "a", "image": "b"}}, "group main: set only one of models.claim"),
        ({"access": {}}, "group main: set access.keysSecret, or access.allowAnonymous"),
        ({"access": {"keysSecret": "keys"}}, "access.keysSecret and access.probeKey belong together"),
        ({"autoscaling": {"kind": "keda"}}, "group main: autoscaling.prometheus is missing"),
        ({"autoscaling": {"kind": "vpa"}}, "at '/groups/main/autoscaling/kind': value must be one of"),
        ({"replica": 3}, "at '/groups/main': additional properties 'replica' not allowed"),
        ({"resources": {"limits": "2Gi"}}, "at '/groups/main/resources/limits': got string, want object"),
    ],
)
def test_wrong_values_are_told(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    group = {"models": {"claim": "models"}, "access": {"allowAnonymous": True}} | change
    with pytest.raises(RuntimeError, match=re.escape(text)):
        template(tmp_path, {"groups": {"main": group}})


@with_helm
def test_a_name_that_is_too_long_for_a_service_is_told(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    group = {"models": {"claim": "models"}, "access": {"allowAnonymous": True}}
    path.write_text(yaml.safe_dump({"groups": {"main": None, "g" * 32: group}}))
    with pytest.raises(RuntimeError, match="longer than the 63 characters of a Service's name"):
        helm("template", "r" * 31, CHART, "--values", path)
    assert helm("template", "r" * 30, CHART, "--values", path)


def test_queries_ask_for_metrics_that_there_are() -> None:
    known = set(re.findall(r"`(salver_\w+)`", (ROOT / "docs" / "reference" / "metrics.md").read_text()))
    dashboard = json.loads((CHART / "dashboards" / "salver.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries.append((CHART / "templates" / "scaler.yaml").read_text())
    asked = {name for query in queries for name in re.findall(r"salver_\w+", query)}
    assert len(asked) == 7
    assert {name.removesuffix("_bucket") for name in asked} <= known


def test_the_chart_has_the_version_of_salver() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (salver.__version__, salver.__version__)


class Cluster:
    """What manifests refer to: a volume, image or bucket of models, PostgreSQL, a file of keys."""

    def __init__(self, folder: Path, s3: S3, registry: ModelRegistry, ledger: str) -> None:
        self.folder, self.s3, self.registry, self.ledger = folder, s3, registry, ledger
        self.probe, self.caller = new_key(), new_key()

    async def fill(self) -> None:
        for place in ("claim", "image/models"):
            zoo.write_mlp(self.folder / place / "fraud", 1)
        await push(self.registry, self.folder / "source")
        self.s3.put_folder("models", "live", self.folder / "claim")
        self.s3.put_folder("models", "registry", self.folder / "registry")
        scopes = {self.probe: "outcomes", self.caller: "infer"}
        records = [KeyRecord(scope, scope, hash_of(key), (scope,)) for key, scope in scopes.items()]
        (self.folder / "keys").mkdir()
        (self.folder / "keys" / "keys.toml").write_text(written(records))

    def start(self, pod: dict[str, Any]) -> Container:
        """Start a pod's container; the mounts lie elsewhere, and its port is free."""
        (container,) = pod["containers"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        args = list(container["args"])
        mounts: list[str] = []
        for mount in container["volumeMounts"]:
            (source,) = set(volumes[mount["name"]]) - {"name"}
            if source == "emptyDir":
                size = int(volumes[mount["name"]][source]["sizeLimit"].removesuffix("Gi")) << 30
                mounts += ["--size", str(size), "--tmpfs", mount["mountPath"]]
            folder = {"persistentVolumeClaim": "claim", "image": "image", "secret": "keys"}.get(source)
            if folder:
                found = str(self.folder / folder / mount.get("subPath", ""))
                args = [word.replace(mount["mountPath"], found) for word in args]
        secrets = {"salver-ledger": self.ledger}
        variables = {
            each["name"]: each.get("value") or secrets[each["valueFrom"]["secretKeyRef"]["name"]]
            for each in container["env"]
        }
        for each in container.get("envFrom", ()):
            assert each == {"secretRef": {"name": "salver-s3"}}
            variables |= KEYS
        there = self.s3.url("models/")
        args = [word.replace(IN_S3, there) for word in args]
        variables = {name: value.replace(IN_S3, there) for name, value in variables.items()}
        port = free_port()
        args += [f"--port={port}", "--drain-delay=0"]
        mounts += ["--ro-bind", str(self.folder), str(self.folder)]
        return Container(self.folder / "log", port, args, variables, mounts)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    registry = await open_registry("postgresql", tmp_path / "registry")
    ledger = registry.ledger.url.render_as_string(hide_password=False)
    async with registry.ledger, DatabaseRelay(ledger) as relay:
        with s3_server() as s3:
            found = Cluster(tmp_path, s3, registry, relay.url.partition("?")[0])
            await found.fill()
            yield found


@pytest.fixture
def running(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Container]:
    pod = cluster.start(DEPLOYMENTS[request.param]["spec"]["template"]["spec"])
    yield pod
    pod.kill()


@pytest.mark.parametrize(("running", "name"), [(name, name) for name in DEPLOYMENTS], indirect=["running"])
async def test_containers_start_as_they_are_rendered(running: Container, cluster: Cluster, name: str) -> None:
    await asyncio.to_thread(check, running, cluster, name)  # the way to the database needs this thread


def check(running: Container, cluster: Cluster, name: str) -> None:
    """Try probes, a request with and without a key, and an end by SIGTERM."""
    (container,) = DEPLOYMENTS[name]["spec"]["template"]["spec"]["containers"]

    def probe(kind: str) -> int:
        asked = container[kind]["httpGet"]
        named = {each["name"]: each["value"] for each in asked.get("httpHeaders", ())}
        keys = {key: value.replace("PROBE-KEY", cluster.probe) for key, value in named.items()}
        return running.ask(asked["path"], **keys)[0]

    for kind in ("startupProbe", "readinessProbe"):
        until(lambda kind=kind: probe(kind) == 200 or running.process.poll() is not None, running.text)
        assert running.process.poll() is None, running.text()
    assert probe("livenessProbe") == 200
    status, answer = running.ask("/v2/models/fraud/infer", BODY, **{"x-api-key": cluster.caller})
    assert status == 200, answer
    has_keys = any("keys" in word for word in container["args"])
    assert running.ask("/v2/models/fraud/infer", BODY)[0] == (401 if has_keys else 200)
    assert running.terminate() == 0, running.text()
