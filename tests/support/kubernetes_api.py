"""API server of a cluster that knows one namespace, and applies HTTPRoutes as Kubernetes does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from crds import custom_resource

SCHEMA = custom_resource("HTTPRoute")


class Api:
    """Objects by path, with who manages their spec; ``refusal`` answers in place of everything."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.managers: dict[str, str] = {}
        self.refusal: tuple[int, str] | None = None
        self.tokens: list[str] = []

    def patch(self, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, str]:
        manager = query["fieldManager"][0]
        if self.refusal:
            return self.refusal
        if not path.startswith("/apis/gateway.networking.k8s.io/v1/namespaces/models/httproutes/"):
            return 404, "the server could not find the requested resource"
        if wrong := [error.message for error in SCHEMA.iter_errors(body)]:
            return 422, wrong[0]
        owner = self.managers.get(path, manager)
        is_changed = self.objects.get(path, body)["spec"] != body["spec"]
        if owner != manager and is_changed and query.get("force") != ["true"]:
            return 409, f'Apply failed with 1 conflict: conflict with "{owner}": .spec.rules'
        self.objects[path], self.managers[path] = body, manager
        return 200, ""


@contextmanager
def running(folder: Path) -> Iterator[tuple[Api, Path]]:
    """Yield the API with the kubeconfig that leads to it."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def do_PATCH(self) -> None:
            assert self.headers["content-type"] == "application/apply-patch+yaml"
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            api.tokens.append(self.headers["authorization"])
            url = urlsplit(self.path)
            status, message = api.patch(url.path, parse_qs(url.query), body)
            answer = json.dumps({"kind": "Status", "message": message} if message else body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "ann", "user": {"token": "secret"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "here", "user": "ann", "namespace": "models"}},
            {"name": "there", "context": {"cluster": "here", "user": "ann"}},
        ],
    }
    path = folder / "kubeconfig.yaml"
    path.write_text(yaml.safe_dump(config))
    yield api, path
    server.shutdown()
    server.server_close()
