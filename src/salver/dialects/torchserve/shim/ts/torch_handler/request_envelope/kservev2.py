"""Envelope of KServe's second protocol (TS-R7)."""

from typing import Any

import numpy as np

from ts.handler_utils.bodies import json_of
from ts.torch_handler.request_envelope.base import BaseEnvelope, shared

#: Datatypes of a handler's results, by numpy's names.
_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}


class KServev2Envelope(BaseEnvelope):
    """Envelope that joins the inputs of all requests, and answers with as many outputs to each."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        """Return inputs as ``{name, shape, datatype, data}``, data nested; of BYTES only the first text."""
        asked = [json_of(row) for row in data]
        inputs = [[_shaped(each) for each in body["inputs"]] for body in asked]
        self._ids = [_id_of(body) for body in asked]
        self._names = [[each["name"] for each in part] for part in inputs]
        return [each for part in inputs for each in part]

    def format_output(self, data: list[Any]) -> list[Any]:
        """Return a response for each request, with an output for each of its inputs."""
        parts = shared(data, [len(names) for names in self._names])
        if parts is None:
            return data
        about = self.context.manifest.get("model")
        return [
            {
                "id": self._ids[index] or self.context.get_request_id(index),
                "model_name": about.get("modelName"),
                "model_version": about.get("modelVersion"),
                "outputs": [_output(self._names[index][at], said) for at, said in enumerate(part)],
            }
            for index, part in enumerate(parts)
        ]


def _id_of(body: dict[str, Any]) -> str:
    id = body.get("id")
    return id if id and id.strip() else ""


def _shaped(asked: dict[str, Any]) -> dict[str, Any]:
    if asked["datatype"] == "BYTES":
        return {**asked, "data": asked["data"][0]}
    return {**asked, "data": np.array(asked["data"]).reshape(tuple(asked["shape"])).tolist()}


def _output(name: str, said: Any) -> dict[str, Any]:
    flat = np.array(said).flatten()
    kind = str(flat.dtype) if str(flat.dtype) in _DATATYPES else flat.dtype.kind
    datatype = "BYTES" if kind == "U" else _DATATYPES[kind]
    return {"name": name, "datatype": datatype, "data": flat.tolist(), "shape": flat.shape}
