"""TorchServe's descriptions of its interfaces."""

import pytest

from salver.dialects.torchserve.openapi import describe_management, describe_port, describe_prediction

INFERENCE = {
    "/": {"options": "apiDescription"},
    "/ping": {"get": "ping"},
    "/v1/models/{model_name}:predict": {"post": "predictions"},
    "/v2/models/{model_name}/infer": {"post": "predictions"},
    "/predictions/{model_name}": {"post": "predictions"},
    "/predictions/{model_name}/{model_version}": {"post": "version_predictions"},
    "/api-description": {"get": "api-description"},
    "/metrics": {"get": "metrics"},
}
MODEL = {
    "/models/{model_name}": {"get": "describeModel", "put": "setAutoScale", "delete": "unregisterModel"},
    "/models/{model_name}/{model_version}": {
        "get": "version_describeModel",
        "put": "version_setAutoScale",
        "delete": "version_unregisterModel",
    },
    "/models/{model_name}/{model_version}/set-default": {"put": "setDefault"},
}
MANAGEMENT = {
    "/": {"options": "apiDescription"},
    "/models": {"get": "listModels", "post": "registerModel"},
    **MODEL,
    "/api-description": {"get": "api-description"},
    "/metrics": {"get": "metrics"},
}


def named(description: dict[str, dict[str, dict[str, dict[str, str]]]]) -> dict[str, dict[str, str]]:
    return {
        path: {verb: operation["operationId"] for verb, operation in verbs.items()}
        for path, verbs in description["paths"].items()
    }


@pytest.mark.clause("TS-R2")
def test_each_port_describes_what_it_serves() -> None:
    assert named(describe_port({"inference"})) == INFERENCE
    assert named(describe_port({"management"})) == MANAGEMENT
    assert named(describe_port({"inference", "management"})) == INFERENCE | MANAGEMENT
    assert named(describe_port({"metrics"})) == {"/metrics": {"get": "metrics"}}
    info = describe_port({"inference", "management"})["info"]
    assert (info["title"], info["version"]) == ("TorchServe APIs", "0.12.0")


@pytest.mark.clause("TS-R2")
def test_a_model_is_described_by_how_it_is_managed_and_asked() -> None:
    assert named(describe_management("noop")) == MODEL
    assert describe_management("noop")["info"] == {
        "title": "RESTful Management API for: noop",
        "version": "0.12.0",
    }
    asked = describe_prediction("noop")
    assert named(asked) == {
        path: {"post": "noop"}
        for path in ("/prediction/noop", "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer")
    }
    assert asked["info"] == {"title": "RESTful API for: noop", "version": "1.0.0"}


@pytest.mark.clause("TS-R2")
def test_parameters_of_paths_and_queries_are_told() -> None:
    post = describe_port({"management"})["paths"]["/models"]["post"]
    parameters = {each["name"]: (each["in"], each["required"]) for each in post["parameters"]}
    assert parameters["url"] == ("query", True)
    assert parameters["initial_workers"] == ("query", False)
    version = describe_port({"inference"})["paths"]["/predictions/{model_name}/{model_version}"]["post"]
    assert [each["name"] for each in version["parameters"]] == ["model_name", "model_version"]
    assert version["requestBody"]["required"]
