"""The renderer of tests/support beside what KServe's own tests expect, and the choice of the runtime."""

from copy import deepcopy
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from kserve_render import AGENT_PORT, Json, deployed, rendered
from kserve_runtimes import (
    AUTOMATIC,
    SALVER,
    TORCHSERVE,
    NoRuntime,
    formats,
    kserves,
    selected,
    with_defaults,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "kserve.md"
#: Formats of KServe's own runtimes that Salver does not run, and versions that its frameworks do not read.
NOT_SERVED = {"autogluon", "paddle", "pmml", "tensorrt"}
NOT_READ = {("sklearn", "0")}
#: The format under which a service asks for each backend of Salver; `salver` stands for whatever it runs.
FORMATS = {
    "huggingface": "huggingface",
    "instances": "salver",
    "lightgbm": "lightgbm",
    "litert": "salver",
    "onnx": "onnx",
    "openvino": "openvino",
    "pipeline": "salver",
    "python": "salver",
    "python.triton": "triton",
    "sklearn": "sklearn",
    "tensorflow": "tensorflow",
    "torch": "pytorch",
    "torchserve": "pytorch",
    "xgboost": "xgboost",
}
ARGS = [
    "--port=9000",
    "--rest_api_port=8080",
    "--model_base_path=/mnt/models",
    "--rest_api_timeout_in_ms=60000",
]
#: Runtime, service and pod of rawkube_controller_test.go:70 and tests_common.go:90, 338.
TENSORFLOW = {
    "name": "kserve-container",
    "image": "tensorflow/serving:1.14.0",
    "command": ["/usr/bin/tensorflow_model_server"],
    "args": ARGS,
}
POD = {
    "containers": [
        {
            **TENSORFLOW,
            "env": [{"name": "INFERENCE_SERVICE_NAME", "value": "raw-foo"}],
            "imagePullPolicy": "IfNotPresent",
            "readinessProbe": {
                "tcpSocket": {"port": 8080},
                "timeoutSeconds": 1,
                "periodSeconds": 10,
                "successThreshold": 1,
                "failureThreshold": 3,
            },
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        }
    ],
    "schedulerName": "default-scheduler",
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "securityContext": {},
    "automountServiceAccountToken": False,
}


def service(uri: str = "s3://test/mnist/export", **more: object) -> Json:
    model = {"modelFormat": {"name": "tensorflow"}, "storageUri": uri, "runtimeVersion": "1.14.0", **more}
    return {"metadata": {"name": "raw-foo", "namespace": "default"}, "spec": {"predictor": {"model": model}}}


def test_the_pod_of_kserves_own_test() -> None:
    runtime = {"spec": {"containers": [TENSORFLOW]}}
    pod, port = deployed(runtime, service())
    assert pod == POD
    assert port == {"name": "raw-foo-predictor", "port": 80, "targetPort": 8080, "protocol": "TCP"}
    (init,) = rendered(runtime, service())[0]["initContainers"]
    assert init["args"] == ["s3://test/mnist/export", "/mnt/models"]


def test_a_model_car_as_in_kserves_own_test() -> None:
    """TestInjectModelcar, storage_initializer_injector_test.go:3198."""
    pod, _ = rendered({"spec": {"containers": [TENSORFLOW]}}, service("oci://mine/image"), user=1010)
    assert [volume["name"] for volume in pod["volumes"]] == ["kserve-provision-location"]
    assert [container["name"] for container in pod["containers"]] == ["kserve-container", "modelcar"]
    assert pod["initContainers"][0]["name"] == "modelcar-init" and pod["shareProcessNamespace"]
    assert {"name": "MODEL_INIT_MODE", "value": "async"} in pod["containers"][0]["env"]
    assert pod["containers"][0]["securityContext"] == {"runAsUser": 1010}


def test_a_service_adds_to_the_runtime_and_wins() -> None:
    """Lists are merged by their key, arguments appended, and the tag is the service's."""
    more = {
        "args": ["--threads=2"],
        "env": [{"name": "A", "value": "1"}],
        "resources": {"limits": {"cpu": "2"}},
    }
    pod, port = rendered(SALVER, service(**more))
    (container,) = pod["containers"]
    assert container["args"] == [
        *(arg.replace("{{.Name}}", "raw-foo") for arg in SALVER["spec"]["containers"][0]["args"]),
        "--threads=2",
    ]
    assert [each["name"] for each in container["env"]] == ["A", "INFERENCE_SERVICE_NAME"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert container["image"] == "salver:1.14.0"
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp", "/mnt/models"]
    assert port == {
        "name": "h2c",
        "port": 80,
        "targetPort": 8080,
        "protocol": "TCP",
        "appProtocol": "kubernetes.io/h2c",
    }


@pytest.mark.parametrize("sidecar", ["logger", "batcher"])
def test_the_agent_takes_over_port_and_probe(sidecar: str) -> None:
    asked = deepcopy(service())
    asked["spec"]["predictor"][sidecar] = {}
    pod, port = rendered(SALVER, asked)
    server, agent = pod["containers"]
    assert port["targetPort"] == AGENT_PORT
    assert agent["args"] == ["--component-port", "8080"]
    assert agent["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": AGENT_PORT}
    assert agent["securityContext"] == server["securityContext"]


@pytest.mark.parametrize(("protocol", "envelope"), [("v1", "kserve"), ("v2", "kservev2")])
def test_torchserves_envelope_follows_the_protocol(protocol: str, envelope: str) -> None:
    told = service(runtime="salver-torchserve", protocolVersion=protocol)
    pod, _ = deployed(TORCHSERVE, with_defaults(TORCHSERVE, told))
    assert {"name": "TS_SERVICE_ENVELOPE", "value": envelope} in pod["containers"][0]["env"]


def asked(name: str, **more: object) -> Json:
    return {"spec": {"predictor": {"model": {"modelFormat": {"name": name}, **more}}}}


def test_the_runtime_knows_each_backend_and_no_format_of_kserves_that_it_cannot_run() -> None:
    known = {each.name for each in formats(SALVER)}
    assert FORMATS.keys() == {each.name for each in entry_points(group="salver.backends")}
    assert known == {*FORMATS.values(), "mlflow"}
    of_kserve = [each for runtime in kserves() for each in formats(runtime)]
    assert {each.name for each in of_kserve} - known == NOT_SERVED
    here = {(each.name, each.version) for each in formats(SALVER)}
    served = {(each.name, each.version) for each in of_kserve if each.name not in NOT_SERVED}
    assert served - here == NOT_READ
    for name in NOT_SERVED:
        assert f"`{name}`" in PAGE.read_text()


def test_a_runtime_that_is_selected_automatically_is_before_kserves_own() -> None:
    """Equal priorities of two runtimes are refused (servingruntime_webhook.go:41)."""
    runtimes = [*kserves(), AUTOMATIC]
    assert not {each[:3] for each in formats(AUTOMATIC)} & {each[:3] for each in formats(TORCHSERVE)}
    least = min(each.priority for each in formats(AUTOMATIC))
    assert least > max(each.priority for runtime in kserves() for each in formats(runtime))
    for each in formats(AUTOMATIC):
        model = {"name": each.name, "version": each.version}
        assert selected(runtimes, asked(each.name, modelFormat=model)) is AUTOMATIC
    for name in NOT_SERVED:
        assert selected(runtimes, asked(name, protocolVersion="v2")) is not AUTOMATIC


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v1", "grpc-v2"])
def test_who_names_the_runtime_gets_it_for_what_it_serves_alone(protocol: str) -> None:
    runtimes = [*kserves(), SALVER]
    chosen = {"runtime": "salver", "protocolVersion": protocol}
    for each in formats(SALVER):
        assert selected(runtimes, asked(each.name, **chosen)) is SALVER
    for name in NOT_SERVED:
        with pytest.raises(NoRuntime):
            selected(runtimes, asked(name, **chosen))
    assert selected(runtimes, asked("sklearn")) is not SALVER
