"""The chart and the plain manifests: valid objects, restricted pods, and arguments that start Salver."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
import zoo
from charts import CHART, MANIFESTS, PLACE, PLAIN, helm, template, with_helm
from crds import custom_resource
from pods import Container
from pushing import BODY, push
from registries import open_registry
from s3 import KEYS, S3
from waiting import until

import salver
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
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
BUCKET = "s3://models/live"
EVERY_OPTION = {
    "imagePullSecrets": [{"name": "registry"}],
    "groups": {
        "main": {
            "models": {"uri": BUCKET},
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


class Schemas:
    """Schemas of one version of Kubernetes, those named strict, which refuse fields that they do not know."""

    def __init__(self, version: str) -> None:
        folder = PLACE / "kubernetes_validate" / "kubernetes-json-schema" / f"v{version}.0-local-strict"
        self._definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
        self._validators: dict[str, jsonschema_rs.Validator] = {}

    def errors(self, thing: dict[str, Any]) -> list[str]:
        kind = thing["kind"]
        if kind not in self._validators:
            self._validators[kind] = self._validator(thing)
        found = self._validators[kind].iter_errors(thing)
        return [f"{kind} {error.instance_path} {error.message}" for error in found]

    def _validator(self, thing: dict[str, Any]) -> jsonschema_rs.Validator:
        group, _, version = thing["apiVersion"].rpartition("/")
        kind = {"group": group, "version": version, "kind": thing["kind"]}
        for name, each in self._definitions.items():
            if kind in each.get("x-kubernetes-group-version-kind", ()):
                return jsonschema_rs.validator_for({"$defs": self._definitions, "$ref": f"#/$defs/{name}"})
        return custom_resource(thing["kind"])


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
    """What manifests refer to: a volume or image of models, a ledger, a file of keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.probe, self.caller = new_key(), new_key()

    async def fill(self) -> None:
        for place in ("claim", "image/models"):
            zoo.write_mlp(self.folder / place / "fraud", 1)
        registry = await open_registry("sqlite", self.folder / "registry")
        await push(registry, self.folder / "source")
        await registry.ledger.close()
        scopes = {self.probe: "outcomes", self.caller: "infer"}
        records = [KeyRecord(scope, scope, hash_of(key), (scope,)) for key, scope in scopes.items()]
        (self.folder / "keys").mkdir()
        (self.folder / "keys" / "keys.toml").write_text(written(records))

    def bucket(self) -> str:
        """Return where the models of the claim lie in a bucket, too."""
        s3 = S3()
        s3.put_folder("models", "live", self.folder / "claim")
        return s3.url("models/live")

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
        ledger = str(self.folder / "registry")
        given = {"SALVER_REGISTRY": ledger, "SALVER_ARTIFACTS": ledger}
        variables = {each["name"]: given.get(each["name"]) or each["value"] for each in container["env"]}
        if BUCKET in args:
            assert container["envFrom"] == [{"secretRef": {"name": "salver-s3"}}]
            variables |= KEYS
            args[args.index(BUCKET)] = self.bucket()
        port, seen = free_port(), str(self.folder)
        args += [f"--port={port}", "--drain-delay=0"]
        mounts += ["--ro-bind", seen, seen, "--bind", ledger, ledger]
        return Container(self.folder / "log", port, args, variables, mounts)


@pytest.fixture
async def cluster(tmp_path: Path) -> Cluster:
    found = Cluster(tmp_path)
    await found.fill()
    return found


@pytest.fixture
def running(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Container]:
    pod = cluster.start(DEPLOYMENTS[request.param]["spec"]["template"]["spec"])
    yield pod
    pod.kill()


@pytest.mark.parametrize(("running", "name"), [(name, name) for name in DEPLOYMENTS], indirect=["running"])
def test_containers_start_as_they_are_rendered(running: Container, cluster: Cluster, name: str) -> None:
    """Probes, a request with and without a key, and an end by SIGTERM."""
    (container,) = DEPLOYMENTS[name]["spec"]["template"]["spec"]["containers"]

    def probe(kind: str) -> int:
        asked = container[kind]["httpGet"]
        named = {each["name"]: each["value"] for each in asked.get("httpHeaders", ())}
        keys = {key: value.replace("PROBE-KEY", cluster.probe) for key, value in named.items()}
        return running.ask(asked["path"], **keys)[0]

    until(lambda: probe("startupProbe") == 200, running.text)
    until(lambda: probe("readinessProbe") == 200, running.text)
    assert probe("livenessProbe") == 200
    status, answer = running.ask("/v2/models/fraud/infer", BODY, **{"x-api-key": cluster.caller})
    assert status == 200, answer
    has_keys = any("keys" in word for word in container["args"])
    assert running.ask("/v2/models/fraud/infer", BODY)[0] == (401 if has_keys else 200)
    assert running.terminate() == 0, running.text()
