"""Every value of the chart's ``values.yaml`` changes the objects that it is for, and no others."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHART, helm, template, with_helm

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
BASE = {"defaults.models.claim": "models", "defaults.access.allowAnonymous": True}
LEDGER = {"defaults.models.claim": "", "defaults.registry.secret": "ledger"}
KEYS = {
    "defaults.access.allowAnonymous": False,
    "defaults.access.keysSecret": "keys",
    "defaults.access.probeKey": "key",
}
KEDA = {"defaults.autoscaling.kind": "keda", "defaults.autoscaling.prometheus": "http://prometheus:9090"}
WATCHED = {"monitoring.serviceMonitor": True}
ALL = frozenset({"Deployment", "Service", "PodDisruptionBudget"})
#: Another value of each, the kinds of objects that it changes, and what has to be set with it.
CHANGES: dict[str, tuple[Any, str | frozenset[str], Mapping[str, Any]]] = {
    "image.repository": ("registry.example/salver", "Deployment", {}),
    "image.tag": ("7", "Deployment", {}),
    "image.pullPolicy": ("Always", "Deployment", {}),
    "imagePullSecrets": ([{"name": "registry"}], "Deployment", {}),
    "groups.main": (None, ALL, {"groups.other": {}}),
    "defaults.replicas": (7, "Deployment", {}),
    "defaults.models.claim": ("other", "Deployment", {}),
    "defaults.models.image": ("registry.example/models:7", "Deployment", LEDGER),
    "defaults.models.subPath": ("live", "Deployment", {}),
    "defaults.models.uri": ("s3://bucket/models", "Deployment", LEDGER),
    "defaults.registry.secret": ("ledger", "Deployment", {}),
    "defaults.registry.artifacts": ("s3://bucket/files", "Deployment", LEDGER),
    "defaults.access.allowAnonymous": (True, "Deployment", KEYS),
    "defaults.access.keysSecret": ("other", "Deployment", KEYS),
    "defaults.access.probeKey": ("other", "Deployment", KEYS),
    "defaults.access.metricsSecret": ("metrics", "ServiceMonitor", KEYS | WATCHED),
    "defaults.args": (["--log-level=debug"], "Deployment", {}),
    "defaults.env": ({"OMP_NUM_THREADS": 2}, "Deployment", {}),
    "defaults.envSecrets": (["s3"], "Deployment", {}),
    "defaults.resources.requests.cpu": ("7", "Deployment", {}),
    "defaults.resources.requests.memory": ("1Gi", "Deployment", {}),
    "defaults.resources.limits.memory": ("7Gi", "Deployment", {}),
    "defaults.scratch": ("7Gi", "Deployment", {}),
    "defaults.sharedMemory": ("1Gi", "Deployment", {}),
    "defaults.drain.delaySeconds": (7, "Deployment", {}),
    "defaults.drain.graceSeconds": (7, "Deployment", {}),
    "defaults.startupSeconds": (7, "Deployment", {}),
    "defaults.strategy.type": ("Recreate", "Deployment", {"defaults.strategy.rollingUpdate": None}),
    "defaults.strategy.rollingUpdate.maxSurge": ("25%", "Deployment", {}),
    "defaults.strategy.rollingUpdate.maxUnavailable": (1, "Deployment", {}),
    "defaults.maxUnavailable": ("25%", "PodDisruptionBudget", {}),
    "defaults.autoscaling.kind": ("hpa", frozenset({"Deployment", "HorizontalPodAutoscaler"}), {}),
    "defaults.autoscaling.min": (7, "ScaledObject", KEDA),
    "defaults.autoscaling.max": (7, "HorizontalPodAutoscaler", {"defaults.autoscaling.kind": "hpa"}),
    "defaults.autoscaling.queueDepth": ("7", "ScaledObject", KEDA),
    "defaults.autoscaling.loadRatio": (
        "0.5",
        "HorizontalPodAutoscaler",
        {"defaults.autoscaling.kind": "hpa"},
    ),
    "defaults.autoscaling.prometheus": ("http://other:9090", "ScaledObject", KEDA),
    "defaults.service.type": ("LoadBalancer", "Service", {}),
    "defaults.service.port": (80, "Service", {}),
    "defaults.service.annotations": ({"a": "b"}, "Service", {}),
    "defaults.podAnnotations": ({"a": "b"}, "Deployment", {}),
    "defaults.podLabels": ({"a": "b"}, "Deployment", {}),
    "defaults.podSecurityContext.runAsNonRoot": (False, "Deployment", {}),
    "defaults.podSecurityContext.seccompProfile.type": ("Unconfined", "Deployment", {}),
    "defaults.pod": ({"nodeSelector": {"pool": "models"}}, "Deployment", {}),
    "serviceAccount.annotations": ({"a": "b"}, "ServiceAccount", {}),
    "networkPolicy.enabled": (False, "NetworkPolicy", {}),
    "networkPolicy.from": ([{"podSelector": {}}], "NetworkPolicy", {}),
    "networkPolicy.egress": ([], "NetworkPolicy", {}),
    "monitoring.serviceMonitor": (True, "ServiceMonitor", {}),
    "monitoring.interval": ("7s", "ServiceMonitor", WATCHED),
    "monitoring.labels": ({"release": "prometheus"}, "ServiceMonitor", WATCHED),
    "monitoring.dashboard": (True, "ConfigMap", {}),
}


def paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the path of each value that is no group of values."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from paths(value, f"{above}{name}.")
        else:
            yield above + name


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a file has them."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *above, name = path.split(".")
        place = found
        for each in above:
            place = place.setdefault(each, {})
        place[name] = value
    return found


def test_the_table_has_every_value() -> None:
    assert set(CHANGES) == set(paths(VALUES))


def leaves(schema: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the path of each value that a schema names; `main` stands for any group."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    found = dict(schema.get("properties", {}))
    if above == "groups.":
        found = {"main": {}}
    if not found:
        yield above.removesuffix(".")
    for name, each in found.items():
        yield from leaves(each, f"{above}{name}.")


def test_the_schema_and_the_file_have_the_same_values() -> None:
    """But for what Helm passes to every chart, and claims, which are optional beside requests and limits."""
    named = set(leaves(SCHEMA)) - {"global", "defaults.resources.claims"}
    known = set(paths(VALUES))
    assert not [path for path in named if not any(f"{each}.".startswith(f"{path}.") for each in known)]
    assert not [path for path in known if not any(f"{path}.".startswith(f"{each}.") for each in named)]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """Return what Helm renders with values in YAML."""
    folder = tmp_path_factory.mktemp("values")
    return functools.cache(lambda values: template(folder, yaml.safe_load(values)))


@with_helm
@pytest.mark.parametrize("path", CHANGES)
def test_a_value_changes_the_objects_that_it_is_for(
    objects: Callable[[str], list[dict[str, Any]]], path: str
) -> None:
    value, kinds, context = CHANGES[path]
    before = BASE | context
    after = before | {path: value}
    if path == "defaults.access.allowAnonymous":
        after = BASE  # without keys, which exclude it
    old, new = (objects(yaml.safe_dump(nested(each))) for each in (before, after))
    changed = {each["kind"] for each in old if each not in new} | {
        each["kind"] for each in new if each not in old
    }
    assert changed == ({kinds} if isinstance(kinds, str) else kinds)


@with_helm
def test_the_notes_name_the_port_of_the_service(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(nested(BASE | {"defaults.service.port": 80})))
    notes = helm("install", "salver", CHART, "--values", path, "--dry-run=client").partition("\nNOTES:\n")[2]
    assert "port-forward service/salver-main 8000:80\n" in notes
