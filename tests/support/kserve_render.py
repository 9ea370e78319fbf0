"""Pods as KServe's controller and pod webhook make them: a predictor of one model, in Standard mode.

Written from KServe's sources of August 2026 (0.21), whose files and lines stand beside the rules. Without the
agent's full arguments, injected resources, credentials, local caches, several nodes, and Knative.
"""

import json
import re
from copy import deepcopy
from typing import Any

Json = dict[str, Any]

#: Fields by which items of a list are told apart when lists are merged.
_KEYS = {
    "containers": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "volumes": "name",
}
#: What of the runtime, beside its containers, comes into the pod (inferenceservice/utils/utils.go:267).
_OF_THE_RUNTIME = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "volumes",
    "imagePullSecrets",
    "schedulerName",
    "resourceClaims",
)
#: What of a predictor's model is no field of a container.
_NO_CONTAINER = ("modelFormat", "runtime", "storageUri", "protocolVersion", "runtimeVersion")
#: What of a predictor is no field of a pod.
_NO_POD = ("model", "minReplicas", "maxReplicas", "logger", "batcher", "containers", "annotations", "labels")
_LOCATION = "kserve-provision-location"
AGENT_PORT = 9081


def rendered(
    runtime: Json, service: Json, *, native: bool = False, user: int | None = None
) -> tuple[Json, Json]:
    """Return the pod and its first port of the service.

    Args:
        native: Images of models are volumes (``oci+native://``); otherwise they come as ModelCars.
        user: The user that ModelCars force on the server.
    """
    pod, port = deployed(runtime, service)
    predictor = service["spec"]["predictor"]
    server = pod["containers"][0]
    if port["targetPort"] == AGENT_PORT:
        pod["containers"].append(_agent(server))
    uri = predictor["model"].get("storageUri", "")
    if uri:
        _bring(pod, server, uri, native=native, user=user)
    return pod, port


def deployed(runtime: Json, service: Json) -> tuple[Json, Json]:
    """Return the pod of the Deployment, before the pod webhook, and its first port of the service."""
    spec, predictor = runtime["spec"], service["spec"]["predictor"]
    server = _server(spec["containers"][0], predictor["model"], service["metadata"])
    pod = _merged(
        {name: spec[name] for name in _OF_THE_RUNTIME if name in spec},
        {name: value for name, value in predictor.items() if name not in _NO_POD},
    )
    pod["containers"] = deepcopy([server, *spec["containers"][1:], *predictor.get("containers", [])])
    defaults = {  # reconcilers/deployment/deployment_reconciler.go:276
        "schedulerName": "default-scheduler",
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "automountServiceAccountToken": False,
    }
    pod = defaults | pod
    for container in pod["containers"]:
        _set(container, "INFERENCE_SERVICE_NAME", service["metadata"]["name"])  # predictor.go:154
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "IfNotPresent")
    server = pod["containers"][0]
    first = {"containerPort": 8080, "name": f"{service['metadata']['name']}-predictor"}
    if server.get("ports"):
        first = server["ports"][0]
    probe = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    server.setdefault("readinessProbe", {"tcpSocket": {"port": first["containerPort"]}, **probe})
    port = {"name": first["name"], "port": 80, "targetPort": first["containerPort"], "protocol": "TCP"}
    if "h2c" in port["name"] or "grpc" in port["name"]:  # reconcilers/service/service_reconciler.go:104
        port["appProtocol"] = "kubernetes.io/h2c"
    if "logger" in predictor or "batcher" in predictor:
        port["targetPort"] = AGENT_PORT
    return pod, port


def _server(base: Json, model: Json, metadata: Json) -> Json:
    """Return the server's container: the runtime's, merged with the model's (utils/container_merge.go:32)."""
    own = {name: value for name, value in model.items() if name not in _NO_CONTAINER}
    container = _merged(base, own)
    container["args"] = [*base.get("args", []), *own.get("args", [])]
    version = model.get("runtimeVersion")
    if version and "@sha256:" not in container["image"]:  # utils.go:340
        container["image"] = re.sub(r":[\w.-]*$", "", container["image"]) + f":{version}"
    text = re.sub(
        r"\{\{\s*\.([\w.]+)\s*\}\}", lambda found: _value(found[1], metadata), json.dumps(container)
    )
    return json.loads(text)  # type: ignore[no-any-return]


def _value(path: str, metadata: Json) -> str:
    """Return what a Go template prints for a field of the metadata (utils.go:325)."""
    field, _, key = path.partition(".")
    if field in ("Annotations", "Labels"):
        return str(metadata.get(field.lower(), {}).get(key, "<no value>"))
    return str({"Name": metadata["name"], "Namespace": metadata.get("namespace", "")}[field])


def _merged(base: Any, patch: Any, name: str = "") -> Any:
    """Apply a strategic merge patch: items of lists are merged by their key, and the patch's come first."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {key: _merged(base[key], patch[key], key) for key in base.keys() & patch.keys()}
        return deepcopy(base | patch | both)
    key = _KEYS.get(name)
    if isinstance(base, list) and isinstance(patch, list) and key:
        known = {item[key]: item for item in base}
        first = [_merged(known.pop(item[key], {}), item) for item in patch]
        return [*first, *deepcopy(list(known.values()))]
    return deepcopy(patch)


def _set(container: Json, name: str, value: str) -> None:
    others = [each for each in container.get("env", []) if each["name"] != name]
    container["env"] = [*others, {"name": name, "value": value}]


def _agent(server: Json) -> Json:
    """Return the sidecar that logs and batches, in front of the server (pod/agent_injector.go:177)."""
    probe = server["readinessProbe"]
    path = probe.get("httpGet", {}).get("path", "/")
    return {
        "name": "agent",
        "args": ["--component-port", str(server["ports"][0]["containerPort"])],
        "ports": [{"name": "agent-port", "containerPort": AGENT_PORT}],
        "securityContext": server.get("securityContext"),
        "env": [{"name": "SERVING_READINESS_PROBE", "value": json.dumps(probe)}],
        "readinessProbe": {"httpGet": {"path": path, "port": AGENT_PORT}},
    }


def _bring(pod: Json, server: Json, uri: str, *, native: bool, user: int | None) -> None:
    """Add what brings the model (utils/storage.go:48, 311, 364, 564, 653)."""
    volumes, mounts = pod.setdefault("volumes", []), server.setdefault("volumeMounts", [])
    scheme, _, place = uri.partition("://")
    if scheme == "pvc":
        claim, _, path = place.partition("/")
        volumes.append({"name": "kserve-pvc-source", "persistentVolumeClaim": {"claimName": claim}})
        mount = {"name": "kserve-pvc-source", "mountPath": "/mnt/models", "subPath": path, "readOnly": True}
        mounts.append(mount)
    elif scheme == "oci" and native:
        volumes.append({"name": "mnt-models", "image": {"reference": place, "pullPolicy": "IfNotPresent"}})
        mount = {"name": "mnt-models", "mountPath": "/mnt/models", "subPath": "models", "readOnly": True}
        mounts.append(mount)
    elif scheme == "oci":
        volumes.append({"name": _LOCATION, "emptyDir": {}})
        mounts.append({"name": _LOCATION, "mountPath": "/mnt"})
        _set(server, "MODEL_INIT_MODE", "async")
        pod["shareProcessNamespace"] = True
        if user is not None:
            server.setdefault("securityContext", {})["runAsUser"] = user
        link = "ln -sf /proc/$$$$/root/models /mnt/models && sleep infinity"
        pod["containers"].append({"name": "modelcar", "image": place, "args": ["sh", "-c", link]})
        pod["initContainers"] = [{"name": "modelcar-init", "image": place}]
    else:
        volumes.append({"name": _LOCATION, "emptyDir": {}})
        mounts.append({"name": _LOCATION, "mountPath": "/mnt/models", "readOnly": True})
        pod["initContainers"] = [{"name": "storage-initializer", "args": [uri, "/mnt/models"]}]
