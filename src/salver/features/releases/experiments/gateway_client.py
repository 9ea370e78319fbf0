"""Apply an ``HTTPRoute`` to a cluster, by the official client (extra ``kubernetes``).

Server-side apply as the field manager ``salver``: fields that others manage stay theirs, and a conflict is an
error.
"""

import os
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.words.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    MissingExtra,
    NotFound,
    NotReady,
    SalverError,
    Unauthenticated,
)

MANAGER: Final = "salver"
_TIMEOUT_SECONDS: Final = 30.0
_POD: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Cluster:
    """The API server of a cluster.

    Args:
        kubeconfig: Path of the file that names it; empty = that of kubectl, else the pod's service account.
        context: Context of the file; empty = its current one.

    Raises:
        MissingExtra: The client is not installed.
        InvalidInput: There is no such file or context, or it is invalid.
    """

    def __init__(self, kubeconfig: str = "", context: str = "") -> None:
        try:
            from kubernetes import client, config
        except ModuleNotFoundError as error:
            raise MissingExtra("Kubernetes", "kubernetes", "kubernetes") from error
        settings = client.Configuration()
        is_pod = not (kubeconfig or context or "KUBECONFIG" in os.environ) and _POD.exists()
        try:
            if is_pod:
                config.load_incluster_config(client_configuration=settings)
                self.namespace = _POD.read_text().strip()
            else:
                file = kubeconfig or None
                config.load_kube_config(file, context or None, settings, persist_config=False)
                contexts, current = config.list_kube_config_contexts(file)
                named = next((each for each in contexts if each["name"] == context), current)
                self.namespace = named["context"].get("namespace", "default")
        except Exception as error:  # the client raises what the file's content leads to
            reason = " ".join(str(error).split())
            raise InvalidInput(
                f"no cluster is known from {kubeconfig or 'the kubeconfig'}: {reason}",
                fix="Give --kubeconfig and --context as kubectl takes them.",
            ) from error
        settings.retries = False
        self._host = settings.host
        self._client = client.ApiClient(settings)

    def __repr__(self) -> str:
        """Show the address."""
        return f"<Cluster {self._host}>"

    def apply(self, route: dict[str, Any], *, force: bool = False) -> str:
        """Create the object or change it, and return its namespace and name.

        Args:
            force: Take fields over that other managers have set.

        Raises:
            SalverError: The API server refuses it, or is not reached (NotReady).
        """
        from kubernetes.client import CustomObjectsApi
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        metadata = route["metadata"]
        namespace = metadata.get("namespace") or self.namespace
        group, _, version = route["apiVersion"].partition("/")
        place = f"{namespace}/{metadata['name']}"
        try:
            CustomObjectsApi(self._client).patch_namespaced_custom_object(
                *(group, version, namespace, "httproutes", metadata["name"], route),
                field_manager=MANAGER,
                force=force,
                _content_type="application/apply-patch+yaml",
                _request_timeout=_TIMEOUT_SECONDS,
            )
        except ApiException as error:
            raise _translated(error.status or 0, error.body or "", place) from error
        except HTTPError as error:
            raise NotReady(
                f"the cluster at {self._host} is not reached: {error}", fix="Is --context the right one?"
            ) from error
        return place


class _Status(msgspec.Struct):
    """The ``Status`` with which Kubernetes explains an error."""

    message: str = ""


_STATUS: Final = msgspec.json.Decoder(_Status)
_KINDS: Final[dict[int, tuple[type[SalverError], str]]] = {
    HTTPStatus.UNAUTHORIZED: (Unauthenticated, "Are the credentials of the kubeconfig still valid?"),
    HTTPStatus.FORBIDDEN: (
        Forbidden,
        "A role has to allow the verbs create and patch for httproutes of gateway.networking.k8s.io.",
    ),
    HTTPStatus.NOT_FOUND: (
        NotFound,
        "The namespace has to exist, and the Gateway API has to be installed in the cluster (v1).",
    ),
    HTTPStatus.CONFLICT: (
        Conflict,
        "Give the route another --name, or take the fields over with --force-conflicts.",
    ),
}


def _translated(status: int, body: str, place: str) -> SalverError:
    try:
        text = _STATUS.decode(body).message
    except msgspec.MsgspecError:  # a proxy's page
        text = ""
    kind, fix = _KINDS.get(status, (InvalidInput, ""))
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = NotReady
    return kind(f"the cluster refuses HTTPRoute {place} with {status}: {text or 'no reason given'}", fix=fix)
