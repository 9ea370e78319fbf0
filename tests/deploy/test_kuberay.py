"""KubeRay's manifest: valid, restricted, and started as its operator starts it, with a real Ray."""

import contextlib
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
import zoo
from charts import with_helm
from crds import Schemas
from pods import Container
from pushing import BODY
from ray_nodes import PLACE, VARIABLES
from waiting import until

from salver.testing.process import free_port

PATH = Path(__file__).parents[2] / "deploy" / "kuberay" / "salver.yaml"
POLICY, SERVICE, CLUSTER = yaml.safe_load_all(PATH.read_text())
HEAD = CLUSTER["spec"]["headGroupSpec"]
(WORKERS,) = CLUSTER["spec"]["workerGroupSpecs"]
PODS = [group["template"]["spec"] for group in (HEAD, WORKERS)]
#: Address of the pods. Ray would replace 127.0.0.1 by the machine's outer one.
POD_IP = "127.0.0.2"


def container(group: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in group["template"]["spec"]["containers"] if each["name"] == name)
    return dict(found)


@with_helm
@pytest.mark.parametrize("version", ["1.35", "1.37"])
def test_every_object_is_valid(version: str) -> None:
    schemas = Schemas(version)
    for each in (POLICY, SERVICE, CLUSTER):
        assert not schemas.errors(each)
        assert schemas.errors({**each, "spek": {}})
    assert schemas.errors({**CLUSTER, "spec": {**CLUSTER["spec"], "rayVersoin": "2.60.0"}})


@pytest.mark.parametrize("pod", PODS, ids=["head", "worker"])
def test_pods_are_restricted_and_outlive_the_drain(pod: dict[str, Any]) -> None:
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["automountServiceAccountToken"] is False
    for each in pod["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    drain = [
        int(word.partition("=")[2])
        for word in container(HEAD, "salver")["args"]
        if "-delay" in word or "grace" in word
    ]
    _, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert sum(drain) < int(seconds) < pod["terminationGracePeriodSeconds"]


def test_callers_reach_salver_and_only_pods_of_the_cluster_reach_ray() -> None:
    (label,) = POLICY["spec"]["podSelector"]["matchLabels"].items()
    assert all(label in group["template"]["metadata"]["labels"].items() for group in (HEAD, WORKERS))
    callers, own = POLICY["spec"]["ingress"]
    assert [each["port"] for each in callers["ports"]] == ["http"]
    assert own["from"] == [{"podSelector": {"matchLabels": dict([label])}}]
    # The second label is one that the operator sets, and lets nobody change.
    assert SERVICE["spec"]["selector"] == dict([label]) | {"ray.io/node-type": "head"}
    named = {port["name"]: each["name"] for each in PODS[0]["containers"] for port in each["ports"]}
    assert named[SERVICE["spec"]["ports"][0]["targetPort"]] == "salver"
    assert "http" not in [port["name"] for each in PODS[1]["containers"] for port in each["ports"]]


class Pods:
    """The head's pod, and that of one worker, at one address with free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        zoo.write_mlp(folder / "models" / "mlp", 1)
        ray = folder / "bin" / "ray"
        ray.parent.mkdir()
        ray.write_text(f'#!/bin/sh\nexec {sys.executable} {PLACE}/bin/ray "$@"\n')
        ray.chmod(0o755)
        self.ports = {"gcs-server": free_port(), "raylet": free_port(), "http": free_port()}
        self.started: list[Container] = []

    def ray(self, group: Mapping[str, Any], here: Mapping[str, object]) -> Container:
        """Start Ray by the operator's command (``controllers/ray/common/pod.go`` of KubeRay)."""
        params = {"num-cpus": container(group, "ray")["resources"]["requests"]["cpu"]}
        params |= group["rayStartParams"] | here
        params |= {"node-ip-address": POD_IP, "dashboard-agent-listen-port": 0, "metrics-export-port": 0}
        params |= {"min-worker-port": 0, "max-worker-port": 0}
        flags = " ".join(f"--{name}={value}" for name, value in params.items())
        if group is HEAD:
            flags += " --head"
        return self._start(group, "ray", ["-c", "--", f"ray start {flags} --block"], command=["/bin/bash"])

    def salver(self) -> Container:
        args = [
            word.replace("$(POD_IP):6379", f"{POD_IP}:{self.ports['gcs-server']}").replace(
                "/models", str(self.folder / "models")
            )
            for word in container(HEAD, "salver")["args"]
        ]
        args += [f"--port={self.ports['http']}", "--engine-nodes=2", "--drain-delay=0"]
        return self._start(HEAD, "salver", args)

    def _start(self, group: Mapping[str, Any], name: str, args: list[str], **more: Any) -> Container:
        tmp = self.folder / f"tmp-{group.get('groupName', 'head')}"
        tmp.mkdir(exist_ok=True)
        given = {"POD_IP": POD_IP, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}
        variables = {**VARIABLES, "PATH": f"{self.folder}/bin:/usr/bin:/bin", **given}
        for each in container(group, name)["env"]:
            variables[each["name"]] = each.get("value") or given[each["name"]]
        # The operator adds shared memory.
        mounts = ["--bind", str(tmp), "/tmp", "--size", str(1 << 30), "--tmpfs", "/dev/shm"]
        mounts += [word for path in (self.folder, PLACE) for word in ("--ro-bind", str(path), str(path))]
        log = self.folder / f"{tmp.name}-{name}.log"
        shares = group["template"]["spec"].get("shareProcessNamespace", False)
        found = Container(log, self.ports["http"], args, variables, mounts, shares_processes=shares, **more)
        self.started.append(found)
        return found

    def probe(self, group: Mapping[str, Any], name: str, kind: str) -> bool:
        probe = container(group, name)[kind]
        if "httpGet" in probe:
            return self.started[1].ask(probe["httpGet"]["path"])[0] == 200
        with socket.socket() as caller:
            return caller.connect_ex((POD_IP, self.ports[probe["tcpSocket"]["port"]])) == 0


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    found = Pods(tmp_path)
    yield found
    # Without a namespace of their own, processes of Ray outlive the container.
    running = [each for each in found.started if each.process.poll() is None]
    left = [child for each in running for child in psutil.Process(each.process.pid).children(recursive=True)]
    for each in running:
        each.kill()
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


@pytest.mark.skipif(
    not (PLACE / "ray").exists(), reason="make it first: make .envs/ray-2.60/requirements.txt"
)
def test_containers_start_as_they_are_written(pods: Pods) -> None:
    """The worker comes last; the model waits for it, and runs there."""
    head = pods.ray(HEAD, {"port": pods.ports["gcs-server"]})
    salver = pods.salver()
    until(lambda: pods.probe(HEAD, "ray", "readinessProbe"), head.text)
    address = f"{POD_IP}:{pods.ports['gcs-server']}"
    worker = pods.ray(WORKERS, {"address": address, "node-manager-port": pods.ports["raylet"]})
    until(lambda: pods.probe(WORKERS, "ray", "readinessProbe"), worker.text)
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        until(lambda kind=kind: pods.probe(HEAD, "salver", kind), salver.text)
    status, answer = salver.ask("/v2/models/mlp/infer", BODY)
    assert status == 200, answer

    of_worker = psutil.Process(worker.process.pid).children(recursive=True)
    assert [each for each in of_worker if "ModelActor" in " ".join(each.cmdline())]
    assert salver.terminate() == 0, salver.text()
