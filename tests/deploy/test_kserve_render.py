"""The renderer of tests/support beside what KServe's own tests expect."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from kserve_render import AGENT_PORT, Json, deployed, rendered

RUNTIME = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "kserve" / "salver.yaml").read_text())
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
    pod, port = rendered(RUNTIME, service(**more))
    (container,) = pod["containers"]
    assert container["args"] == [
        *(arg.replace("{{.Name}}", "raw-foo") for arg in RUNTIME["spec"]["containers"][0]["args"]),
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
    pod, port = rendered(RUNTIME, asked)
    server, agent = pod["containers"]
    assert port["targetPort"] == AGENT_PORT
    assert agent["args"] == ["--component-port", "8080"]
    assert agent["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": AGENT_PORT}
    assert agent["securityContext"] == server["securityContext"]
