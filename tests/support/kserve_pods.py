"""Pods of KServe on this machine: containers without rights, with the mounts, arguments and probes of a pod.

Pods have addresses of their own in a cluster; here they share one, so their ports differ.
"""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from kserve_render import Json, rendered
from kserve_runtimes import AUTOMATIC, TORCHSERVE, kserves, selected, with_defaults
from pods import Container
from waiting import until

from salver.testing.process import free_port


def service(name: str, uri: str, *args: str, **model: object) -> Json:
    """Return an InferenceService that names no runtime.

    Args:
        model: Further fields of the predictor's model.
    """
    asked = {"modelFormat": {"name": "sklearn"}, "storageUri": uri, "args": [*args], **model}
    return {"metadata": {"name": name}, "spec": {"predictor": {"model": asked}}}


class Pod(Container):
    """A pod of a service, started as KServe renders it with its own runtimes beside Salver's.

    Args:
        folder: Scratch folder of this pod.
        model: Folder with the model, as a bucket has it; a ModelCar brings it when :meth:`link` is called.
        native: The image of an ``oci://`` model is a volume, and no ModelCar.
    """

    def __init__(self, folder: Path, asked: Json, model: Path, *, native: bool = False) -> None:
        port = free_port()
        runtime = selected([*kserves(), AUTOMATIC, TORCHSERVE], asked)
        spec, _ = rendered(runtime, with_defaults(runtime, asked), native=native)
        # The number stands in arguments, ports and probes.
        self.spec: Json = json.loads(json.dumps(spec).replace("8080", str(port)))
        self.server: Json = self.spec["containers"][0]
        self.volume = folder / "volume"
        self._model = model
        brought_by = [each["name"] for each in self.spec.get("initContainers", ())]
        if native or "storage-initializer" in brought_by:
            shutil.copytree(model, self.volume)
        else:
            self.volume.mkdir(parents=True)
        variables = {each["name"]: each["value"] for each in self.server["env"]}
        mounts = self._mounts()
        super().__init__(folder / "log", port, self.server["args"], {"HOME": "/"} | variables, mounts)

    def _mounts(self) -> list[str]:
        secured = self.server["securityContext"]
        assert secured["readOnlyRootFilesystem"] and secured["runAsNonRoot"]
        words = []
        for mount in self.server["volumeMounts"]:
            if mount["mountPath"] == "/tmp":
                words += ["--ro-bind", str(self._model), str(self._model)]
            elif mount.get("readOnly"):
                words += ["--tmpfs", "/mnt", "--ro-bind", str(self.volume), mount["mountPath"]]
                words += ["--remount-ro", "/mnt"]
            else:
                words += ["--bind", str(self.volume), mount["mountPath"]]
        return words

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


Start = Callable[..., Pod]
