"""Envelope of TensorFlow Serving's JSON (``{"instances": […]}``)."""

import json
from base64 import b64decode
from typing import Any

from ts.handler_utils.bodies import body_of
from ts.torch_handler.request_envelope.base import BaseEnvelope


class JSONEnvelope(BaseEnvelope):
    """Envelope that joins the instances of all requests, and answers ``{"predictions": […]}`` to each."""

    _lengths: tuple[int, ...] = ()

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        """Return the instances, with base64 decoded."""
        parts = [_instances(row) for row in data]
        self._lengths = tuple(map(len, parts))
        return [instance for part in parts for instance in part]

    def format_output(self, data: list[Any]) -> list[Any]:
        """Return JSON as text."""
        texts, begin = [], 0
        for length in self._lengths:
            texts.append(json.dumps({"predictions": data[begin : begin + length]}))
            begin += length
        return texts


def _instances(row: dict[str, Any]) -> list[Any]:
    instances: list[Any] = (body_of(row) or row)["instances"]
    if not isinstance(instances[0], dict):
        return instances
    return [_plain(instance) for instance in instances]


def _plain(instance: dict[str, Any]) -> Any:
    if _is_base64(instance):
        return b64decode(instance["b64"])
    return {name: b64decode(said["b64"]) if _is_base64(said) else said for name, said in instance.items()}


def _is_base64(said: Any) -> bool:
    return isinstance(said, dict) and list(said) == ["b64"]
