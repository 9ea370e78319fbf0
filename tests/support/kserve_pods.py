"""Pods of KServe on this machine: containers without rights, with the mounts, arguments and probes of a pod.

A container is a process of another user with a read-only root, and 64 MiB each of /tmp and /dev/shm
(bubblewrap). Pods have addresses of their own in a cluster; here they share one, so their ports differ.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kserve_render import Json, rendered
from programs import program
from waiting import until

import salver
from salver.testing.process import free_port

RUNTIME = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "kserve" / "salver.yaml").read_text())
_SMALL = ["--size", str(64 << 20), "--tmpfs"]
#: The programs and their source, which a clone in /tmp would else hide.
_PROGRAMS = [
    word for path in (sys.prefix, str(Path(salver.__file__).parents[1])) for word in ("--ro-bind", path, path)
]


def service(name: str = "iris", uri: str = "s3://models/iris", *args: str, **predictor: object) -> Json:
    """Return an InferenceService of the runtime in ``deploy/kserve``."""
    model = {"modelFormat": {"name": "sklearn"}, "runtime": "salver", "storageUri": uri, "args": [*args]}
    return {"metadata": {"name": name}, "spec": {"predictor": {"model": model, **predictor}}}


class Pod:
    """A pod of a service, started as KServe renders it.

    Args:
        folder: Scratch folder of this pod.
        model: Folder with the model, as a bucket has it; a ModelCar brings it when :meth:`link` is called.
    """

    def __init__(self, folder: Path, asked: Json, model: Path) -> None:
        self.port = free_port()
        spec, _ = rendered(RUNTIME, asked)
        # The number stands in arguments, ports and probes.
        self.spec: Json = json.loads(json.dumps(spec).replace("8080", str(self.port)))
        self.server: Json = self.spec["containers"][0]
        self.volume = folder / "volume"
        self._model = model
        if "initContainers" in self.spec and self.spec["initContainers"][0]["name"] == "storage-initializer":
            shutil.copytree(model, self.volume)
        else:
            self.volume.mkdir(parents=True)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log)

    def _command(self) -> list[str]:
        secured = self.server["securityContext"]
        assert secured["readOnlyRootFilesystem"] and secured["runAsNonRoot"]
        words = [program("bwrap"), "--unshare-all", "--share-net", "--uid", "47123", "--gid", "0"]
        words += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", *_SMALL, "/dev/shm"]
        for mount in self.server["volumeMounts"]:
            if mount["mountPath"] == "/tmp":
                words += [*_SMALL, "/tmp", "--ro-bind", str(self._model), str(self._model)]
            elif mount.get("readOnly"):
                words += ["--tmpfs", "/mnt", "--ro-bind", str(self.volume), mount["mountPath"]]
                words += ["--remount-ro", "/mnt"]
            else:
                words += ["--bind", str(self.volume), mount["mountPath"]]
        words += [*_PROGRAMS, "--cap-drop", "ALL", "--die-with-parent", "--new-session", "--chdir", "/"]
        words += ["--clearenv", "--setenv", "PATH", os.environ["PATH"], "--setenv", "HOME", "/"]
        for each in self.server["env"]:
            words += ["--setenv", each["name"], each["value"]]
        return [*words, str(Path(sys.executable).with_name("salver")), *self.server["args"]]

    def link(self) -> None:
        """Link the model as the sidecar of a ModelCar does."""
        (self.volume / "models").symlink_to(self._model)

    def probe(self, kind: str) -> bool:
        """Return whether a probe succeeds, as the kubelet asks it."""
        probe = self.server[kind]
        if "httpGet" in probe:
            assert probe["httpGet"]["port"] == self.port
            return 200 <= self.ask(probe["httpGet"]["path"])[0] < 400
        try:
            socket.create_connection(("127.0.0.1", probe["tcpSocket"]["port"]), 1).close()
        except OSError:
            return False
        return True

    def await_ready(self) -> None:
        """Ask the probes in their order until the pod gets requests."""
        for kind in ("startupProbe", "readinessProbe"):
            until(lambda kind=kind: self.probe(kind), self.text)
        assert self.probe("livenessProbe")

    def ask(self, path: str, document: object = None, **headers: str) -> tuple[int, Any]:
        """Send a request, and return the status with the JSON of the answer; 0 = nobody answers."""
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None

    def text(self) -> str:
        """Return the log."""
        return self.log.read_text()

    def kill(self) -> None:
        """End the pod at once."""
        self.process.kill()
        self.process.wait()


Start = Callable[..., Pod]
