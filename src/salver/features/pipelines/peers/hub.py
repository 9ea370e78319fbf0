"""Requests of ``huggingface_hub.InferenceClient``, answered as Hugging Face's own service answers them.

The client reads some answers only in that form: all labels of a text, a list of labels and scores instead
of ``{"labels", "scores"}``, and embeddings and similarities without a name. It is known by its user agent.

Pure.
"""

from typing import Any, Final

import orjson

from salver.encoding.bodies import HttpBody
from salver.features.pipelines.bodies import parts
from salver.features.pipelines.forms import PipelineRequest, task_request
from salver.features.pipelines.peers import tei, toolkit
from salver.words.messages import InferResponse, Signature

_AGENT: Final = b"hf_hub/"


def is_meant(http: HttpBody) -> bool:
    """Return whether this client has sent the request."""
    return _AGENT in http.headers.get(b"user-agent", b"")


def read(http: HttpBody, signature: Signature) -> PipelineRequest:
    """Return the request. Raises InvalidInput."""
    if signature.task == "sentence-embeddings":
        # An object compares sentences; its embeddings have their parameters beside the inputs.
        is_compared = type(toolkit.root_of(http).get("inputs")) is dict
        return (tei.similarity if is_compared else tei.embed)(http, signature)
    if signature.task not in ("text-classification", "zero-shot-classification"):
        return toolkit.read(http, signature)
    inputs, parameters = parts(http, signature)
    if signature.task == "zero-shot-classification":
        return task_request(http, signature, inputs, parameters, _labels)
    return task_request(http, signature, inputs, {"top_k": None, **parameters}, _classes)


def _classes(response: InferResponse) -> bytes:
    return b"[%b]" % b",".join(response.outputs[0].array.tolist())


def _labels(response: InferResponse) -> bytes:
    rows: list[Any] = [orjson.loads(row) for row in response.outputs[0].array.tolist()]
    found = [
        [{"label": label, "score": score} for label, score in zip(row["labels"], row["scores"], strict=True)]
        for row in rows
    ]
    return orjson.dumps(found[0] if len(found) == 1 else found)
