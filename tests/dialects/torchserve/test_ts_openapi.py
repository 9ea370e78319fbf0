"""TorchServe's descriptions of its interfaces."""

from salver.dialects.torchserve.openapi import of_managed, of_model, of_port

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


def test_ts_r2_each_port_describes_what_it_serves() -> None:
    assert named(of_port(infers=True, manages=False)) == INFERENCE
    assert named(of_port(infers=False, manages=True)) == MANAGEMENT
    assert named(of_port(infers=True, manages=True)) == INFERENCE | MANAGEMENT
    assert named(of_port(infers=False, manages=False)) == {"/metrics": {"get": "metrics"}}
    info = of_port(infers=True, manages=True)["info"]
    assert (info["title"], info["version"]) == ("TorchServe APIs", "0.12.0")


def test_ts_r2_a_model_is_described_by_how_it_is_managed_and_asked() -> None:
    assert named(of_managed("noop")) == MODEL
    assert of_managed("noop")["info"] == {"title": "RESTful Management API for: noop", "version": "0.12.0"}
    asked = of_model("noop")
    assert named(asked) == {
        path: {"post": "noop"}
        for path in ("/prediction/noop", "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer")
    }
    assert asked["info"] == {"title": "RESTful API for: noop", "version": "1.0.0"}


def test_ts_r2_parameters_of_paths_and_queries_are_told() -> None:
    post = of_port(infers=False, manages=True)["paths"]["/models"]["post"]
    parameters = {each["name"]: (each["in"], each["required"]) for each in post["parameters"]}
    assert parameters["url"] == ("query", True)
    assert parameters["initial_workers"] == ("query", False)
    version = of_port(infers=True, manages=False)["paths"]["/predictions/{model_name}/{model_version}"][
        "post"
    ]
    assert [each["name"] for each in version["parameters"]] == ["model_name", "model_version"]
    assert version["requestBody"]["required"]
