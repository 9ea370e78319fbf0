"""What the page for Argo Rollouts, Flagger and KEDA says is where it says: paths, and fields of answers."""

import re
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import msgspec
import yaml
from test_api_reference import operations

from salver.transport.api import Api
from salver.transport.api.plugs import Hook, HookQuery, Judged

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "controllers.md"


def written() -> dict[str, Any]:
    """The examples of YAML, by their first key."""
    found = {}
    for text in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        found.update(yaml.safe_load(text))
    return found


def fields(kind: Any) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def test_argo_finds_the_field_that_its_conditions_are_about() -> None:
    (metric,) = written()["metrics"]
    web = metric["provider"]["web"]
    operation, names = Api(operations()).find("GET", urlsplit(web["url"]).path)
    assert (operation.name, names) == ("verdict", {"release": "fraud-8"})
    (field,) = re.findall(r"^\{\$\.(\w+)\}$", web["jsonPath"])
    assert field in fields(Judged) and operation.gives is Judged
    conditions = (metric["successCondition"], metric["failureCondition"])
    words = [re.findall(r'^result == "(\w+)"$', condition)[0] for condition in conditions]
    verdicts = get_args(next(f.type for f in msgspec.structs.fields(Judged) if f.name == field))
    assert words == ["pass", "fail"] and set(words) < set(verdicts)


def test_flagger_asks_each_hook_by_its_own_name() -> None:
    hooks = written()["webhooks"]
    for hook in hooks:
        url = urlsplit(hook["url"])
        operation, _ = Api(operations()).find("POST", url.path)
        assert operation.name == "flagger" and operation.query is HookQuery
        assert parse_qs(url.query) == {"hook": [hook["type"]]} and hook["type"] in get_args(Hook)
    assert {"confirm-rollout", "rollback"} <= {hook["type"] for hook in hooks}


def test_keda_finds_a_number() -> None:
    (trigger,) = written()["triggers"]
    told = trigger["metadata"]
    operation, names = Api(operations()).find("GET", urlsplit(told["url"]).path)
    assert names == {"model": "echo"} and trigger["type"] == "metrics-api"
    types = {field.encode_name: field.type for field in msgspec.structs.fields(operation.gives)}
    assert types[told["valueLocation"]] in (int, float)
    assert float(told["targetValue"]) > 0
