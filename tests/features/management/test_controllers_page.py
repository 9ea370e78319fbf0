"""What the page for Argo Rollouts, Flagger and KEDA says is where it says, and does there what it says.

What those controllers make of an answer is written here as their sources have it: ``utils/evaluate`` and
``assessMetricStatus`` of Argo Rollouts, ``CallWebhook`` of Flagger, ``GetValueFromResponse`` of KEDA.
"""

import re
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import yaml
from test_api_reference import operations

from salver.features.releases.release_views import Hook, HookQuery, Judged
from salver.transport.operations import Api
from salver.words.releases import ReleaseState

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "controllers.md"


def written() -> list[dict[str, Any]]:
    """The examples of YAML."""
    return [
        yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    ]


def metrics() -> dict[str, dict[str, Any]]:
    """Argo's metrics, by the names of their templates."""
    found = [each for each in written() if each.get("kind") == "AnalysisTemplate"]
    return {each["metadata"]["name"]: each["spec"]["metrics"][0] for each in found}


def condition(text: str, result: Any) -> bool:
    """One of Argo's conditions, of the few forms that the page has."""
    name, sign, wanted = re.fullmatch(r'(result(?:\.\w+)?) (==|>=) "?(\w+)"?', text).groups()  # type: ignore[union-attr]
    value = result[name.partition(".")[2]] if "." in name else result
    return bool(value == wanted if sign == "==" else value >= int(wanted))


def phase(metric: dict[str, Any], answer: Judged) -> str:
    """Of one measurement: with one condition alone, the other is that it does not hold."""
    told = msgspec.to_builtins(answer)
    path = metric["provider"]["web"]["jsonPath"]
    result = told if path == "{$}" else told[re.fullmatch(r"\{\$\.(\w+)\}", path)[1]]  # type: ignore[index]
    fails = condition(metric["failureCondition"], result)
    succeeds = condition(metric["successCondition"], result) if "successCondition" in metric else not fails
    return "Failed" if fails else "Successful" if succeeds else "Inconclusive"


def answer(verdict: str, stage: int = 0) -> Judged:
    return msgspec.convert(
        {"verdict": verdict, "p": 1, "n": 0, "state": "RUNNING", "stage": stage, "stages": 4, "reason": ""},
        Judged,
    )


@pytest.mark.parametrize("name", ["salver-finds-no-harm", "salver-passed-stage-1"])
def test_argo_asks_for_a_verdict(name: str) -> None:
    metric = metrics()[name]
    operation, names = Api(operations()).find("GET", urlsplit(metric["provider"]["web"]["url"]).path)
    assert operation.gives is Judged
    assert names == {"model": "fraud", "version": "{{args.version}}"}
    assert metric["consecutiveErrorLimit"] > 4  # more than that, and a restart aborts a rollout
    assert "count" not in metric  # it would end with the first measurements


def test_in_the_background_only_harm_is_a_failure() -> None:
    metric = metrics()["salver-finds-no-harm"]
    phases = [phase(metric, answer(word)) for word in ("inconclusive", "pass", "fail")]
    assert phases == ["Successful", "Successful", "Failed"]
    assert "inconclusiveLimit" not in metric  # no measurement is


def test_a_step_waits_for_its_stage() -> None:
    metric = metrics()["salver-passed-stage-1"]
    phases = [phase(metric, answer(*told)) for told in (("inconclusive",), ("inconclusive", 1), ("fail", 1))]
    assert phases == ["Inconclusive", "Successful", "Failed"]
    assert metric["consecutiveSuccessLimit"] == 1
    assert metric["inconclusiveLimit"] * 30 > 7 * 86_400  # a release may take a week
    words = get_args(next(f.type for f in msgspec.structs.fields(Judged) if f.name == "verdict"))
    assert set(words) == {"pass", "fail", "inconclusive"}
    assert ReleaseState.RUNNING.value == "RUNNING"


def test_flagger_asks_each_hook_by_its_own_name() -> None:
    (hooks,) = [each["webhooks"] for each in written() if "webhooks" in each]
    for hook in hooks:
        url = urlsplit(hook["url"])
        operation, _ = Api(operations()).find("POST", url.path)
        assert operation.name == "flagger_of_version" and operation.query is HookQuery
        assert parse_qs(url.query) == {"hook": [hook["type"]]} and hook["type"] in get_args(Hook)
        assert operation.status in (200, 201, 202)  # those alone are a yes
    assert {"confirm-rollout", "confirm-promotion", "rollback"} <= {hook["type"] for hook in hooks}
    table = PAGE.read_text().partition("| `hook` |")[2]
    for hook in get_args(Hook):
        assert f"`{hook}`" in table


def test_keda_finds_a_number_and_adds_up_those_of_all_replicas() -> None:
    ((trigger,),) = [each["triggers"] for each in written() if "triggers" in each]
    told = trigger["metadata"]
    operation, names = Api(operations()).find("GET", urlsplit(told["url"]).path)
    assert names == {"model": "echo"} and trigger["type"] == "metrics-api"
    types = {field.encode_name: field.type for field in msgspec.structs.fields(operation.gives)}
    assert types[told["valueLocation"]] in (int, float)
    assert float(told["targetValue"]) > 0
    assert (told["aggregateFromKubeServiceEndpoints"], told["aggregationType"]) == ("true", "sum")
