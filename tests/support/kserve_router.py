"""Router of an InferenceGraph, as KServe's sends requests and puts answers together (cmd/router/main.go).

Conditions are paths of keys and indexes, as ``predictions.0``; a splitter takes the step that it is told.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

Answer = tuple[int, bytes]


class Router:
    """A graph.

    Args:
        nodes: ``spec.nodes`` of the InferenceGraph.
        point: The random number below 100 of splitters.
    """

    def __init__(self, nodes: Mapping[str, Any], point: int = 0) -> None:
        self._nodes = nodes
        self._point = point

    def ask(self, document: object) -> tuple[int, Any]:
        """Return status and JSON of the graph's answer."""
        status, body = self._node("root", json.dumps(document).encode())
        return status, json.loads(body)

    def _node(self, name: str, body: bytes) -> Answer:
        node = self._nodes[name]
        kinds: dict[str, Callable[[list[Any], bytes], Answer]] = {
            "Sequence": self._sequence,
            "Ensemble": self._ensemble,
            "Switch": self._switch,
            "Splitter": self._splitter,
        }
        return kinds[node["routerType"]](node["steps"], body)

    def _step(self, step: Mapping[str, Any], body: bytes) -> Answer:
        if "nodeName" in step:
            return self._node(step["nodeName"], body)
        headers = {"Content-Type": "application/json"}  # others pass only if the router is told so
        try:
            with urllib.request.urlopen(
                urllib.request.Request(step["serviceUrl"], body, headers), timeout=60
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def _sequence(self, steps: list[Any], body: bytes) -> Answer:
        status, answer = 200, b""
        for step in steps:
            if "condition" in step and not _exists(json.loads(answer), step["condition"]):
                return 200, answer
            given = body
            if step.get("data") == "$response" and answer:
                given = answer
                if step.get("mapPredictionsToInstances"):
                    given = json.dumps({"instances": json.loads(answer)["predictions"]}).encode()
            status, answer = self._step(step, given)
            if status >= 300 and step.get("dependency") == "Hard":
                return status, answer
        return status, answer

    def _ensemble(self, steps: list[Any], body: bytes) -> Answer:
        together = {}
        for index, step in enumerate(steps):
            status, answer = self._step(step, body)
            part = json.loads(answer)
            if type(part) is not dict:
                return 500, b'{"error": "Failed to process request", "cause": "no JSON object"}'
            if status >= 300 and step.get("dependency") == "Hard":
                return status, answer
            together[step.get("name", str(index))] = part
        return 200, json.dumps(together).encode()

    def _switch(self, steps: list[Any], body: bytes) -> Answer:
        for step in steps:
            if _exists(json.loads(body), step["condition"]):
                return self._step(step, body)
        cause = "None of the routes matched with the switch condition"
        return 404, json.dumps({"error": "Failed to process request", "cause": cause}).encode()

    def _splitter(self, steps: list[Any], body: bytes) -> Answer:
        end = 0
        for step in steps:
            end += step["weight"]
            if self._point < end:
                return self._step(step, body)
        return 500, b'{"error": "Failed to process request", "cause": "no route"}'


def _exists(root: Any, path: str) -> bool:
    for key in path.split("."):
        try:
            root = root[int(key) if isinstance(root, list) else key]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
    return True
