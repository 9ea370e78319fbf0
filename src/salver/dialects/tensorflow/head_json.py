"""Codecs of Classify and Regress requests in TensorFlow Serving's JSON (TF-R17 to TF-R19, TF-R30).

Maps of features in; labels with scores, or values, out. ``heads.py`` has the rules for signatures. Pure.
"""

from typing import Any, Final

import numpy as np

from salver.dialects.tensorflow.decimals import BETWEEN, decimals
from salver.dialects.tensorflow.examples import example_of
from salver.dialects.tensorflow.heads import (
    CLASSIFY,
    REGRESS,
    classes_in,
    head_of,
    outputs_of,
    request_of,
    values_in,
)
from salver.dialects.tensorflow.json_codec import ModelCodec, root_of
from salver.dialects.tensorflow.json_layout import object_of, one_line, quoted
from salver.dialects.tensorflow.json_shown import shown
from salver.encoding.bodies import HttpBody, HttpReply
from salver.words.errors import InvalidInput, Unsupported
from salver.words.messages import InferRequest, InferResponse, Signature

_RESULTS: Final = b'"results"'


class _HeadCodec(ModelCodec):
    """Base of both codecs, which reads requests."""

    method = ""

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request, with serialised examples, each after the context."""
        root = root_of(http.body)
        examples = _examples(root)
        head = head_of(signature, root.get("signature_name", ""))
        wanted = outputs_of(head, self.method, checks_method=self._checks_method)
        return request_of(signature, head, wanted, examples, http.model, http.version)


class Classify(_HeadCodec):
    """Codec of ``POST /v1/models/{m}:classify``."""

    method = CLASSIFY

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return a list of labels and scores for each example; missing labels are empty, missing scores 0.

        Raises:
            InvalidInput: The outputs are no classes.
            Unsupported: A label is no text.
        """
        found = classes_in(response.outputs, len(request.inputs[0].array))
        labels, scores = found.labels, found.scores
        first = labels if labels is not None else scores
        if first is None or not len(first):
            raise InvalidInput("Cannot convert empty ClassificationResults to JSON")
        names, flat = [b'""'] * first.size, np.zeros(first.size, np.float32)
        if labels is not None:
            names = [_label(label) for label in labels.ravel().tolist()]
        if scores is not None:
            flat = scores.ravel()
        pairs = [
            b"[" + name + b", " + score + b"]"
            for name, score in zip(names, decimals(flat).split(BETWEEN), strict=False)
        ]
        width = first.shape[1]
        rows = [b"[" + b", ".join(pairs[row * width : (row + 1) * width]) + b"]" for row in range(len(first))]
        return HttpReply(200, object_of([(_RESULTS, one_line(rows, 1))], 0))


class Regress(_HeadCodec):
    """Codec of ``POST /v1/models/{m}:regress``."""

    method = REGRESS

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return a value for each example.

        Raises:
            InvalidInput: The output is no list of values.
        """
        values = values_in(response.outputs, len(request.inputs[0].array))
        texts = decimals(np.ascontiguousarray(values)).replace(BETWEEN, b", ")
        return HttpReply(200, object_of([(_RESULTS, b"[" + texts + b"]")], 0))


def _examples(root: dict[str, Any]) -> list[bytes]:
    context = example_of(root["context"]) if "context" in root else b""
    if "examples" not in root:
        raise InvalidInput(
            f"JSON Value: {shown(root)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = root["examples"]
    if type(examples) is not list:
        raise InvalidInput(f"JSON Value: {shown(root)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise InvalidInput(f"JSON Value: {shown(root)} 'examples' value is an empty array")
    return [
        context + example_of(example) for example in examples
    ]  # messages that follow each other are merged


def _label(label: bytes) -> bytes:
    try:
        return quoted(label.decode())
    except UnicodeDecodeError:
        raise Unsupported(f"the label {label[:64]!r} is not UTF-8, which JSON needs") from None
