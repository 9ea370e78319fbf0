"""The InferencePool: valid, with the chart's pods, and metrics that its endpoint picker finds."""

from pathlib import Path

import yaml
from crds import custom_resource
from fake_present import FakePresent
from prometheus_client.parser import text_string_to_metric_families

from salver.features.telemetry.metrics import Metrics
from salver.kernel.serving.present import Load
from salver.words.messages import ModelId

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
PICKER, POOL, ROUTE = yaml.safe_load_all((FOLDER / "pool.yaml").read_text())


def test_the_objects_are_valid() -> None:
    for each in (POOL, ROUTE):
        schema = custom_resource(each["kind"])
        assert [error.message for error in schema.iter_errors(each)] == []
        assert not schema.is_valid({**each, "spek": {}})
    (backend,) = ROUTE["spec"]["rules"][0]["backendRefs"]
    group, _, _ = POOL["apiVersion"].partition("/")
    assert backend == {"group": group, "kind": "InferencePool", "name": POOL["metadata"]["name"]}


def test_the_pool_has_the_pods_of_the_volume_manifest() -> None:
    objects = yaml.safe_load_all((FOLDER / "volume.yaml").read_text())
    (pod,) = (each["spec"]["template"] for each in objects if each["kind"] == "Deployment")
    assert POOL["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (port,) = pod["spec"]["containers"][0]["ports"]
    assert POOL["spec"]["targetPorts"] == [{"number": port["containerPort"]}]


class TwoModels(FakePresent):
    """A model that runs batches, and one that answers by tokens."""

    def loads(self) -> list[Load]:
        return [
            Load(ModelId("fraud", "7"), queued=3, running=1, requests=11),
            Load(ModelId("chat", "1"), queued=2, running=4, requests=6, most_sequences=8),
        ]


def test_the_picker_finds_the_totals_of_all_models() -> None:
    """It takes the first series of a name without labels, as its ``core-metrics-extractor`` does."""
    (config,) = PICKER["data"].values()
    document = yaml.safe_load(config)
    plugins = {each["type"]: each.get("parameters", {}) for each in document["plugins"]}
    (engine,) = plugins["core-metrics-extractor"]["engineConfigs"]
    assert engine["name"] == plugins["core-metrics-extractor"]["defaultEngine"]
    (profile,) = document["schedulingProfiles"]
    assert {each["pluginRef"] for each in profile["plugins"]} <= plugins.keys()
    page, _ = Metrics(TwoModels()).render()
    families = {each.name: each for each in text_string_to_metric_families(page.decode())}
    found = {spec: families[name] for spec, name in engine.items() if spec != "name"}
    assert {
        spec: [(family.type, each.value) for each in family.samples] for spec, family in found.items()
    } == {
        "queuedRequestsSpec": [("gauge", 5)],
        "runningRequestsSpec": [("gauge", 12)],
        "kvUsageSpec": [("gauge", 0.5)],
    }
