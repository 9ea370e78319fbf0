"""Placeholder tensors and raw inputs for example requests.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from salver.words.messages import PIPELINE, Signature, TensorSpec
from salver.words.tensor import DataType

#: A PNG of one pixel.
_IMAGE: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGOY8psbAAPBAZs15MZ+AAAAAElFTkSuQmCC"
#: A WAV of 31 ms of silence.
_SOUND: Final = "UklGRqAAAABXQVZFZm10IBAAAAABAAEAoA8AAKAPAAABAAgAZGF0YXwAAACA" + "gICA" * 41
#: Bodies of requests by the task whose raw inputs a model takes.
RAW_INPUTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "text-classification": {"inputs": "I love you"},
    "token-classification": {"inputs": "My name is Wolfgang and I live in Berlin."},
    "sentence-embeddings": {"inputs": ["How do I reset my password?", "I forgot my login"]},
    "feature-extraction": {"inputs": "I love you"},
    "text-ranking": {"inputs": {"query": "capital of France", "texts": ["Paris is large", "I love you"]}},
    "zero-shot-classification": {
        "inputs": "I want my money back",
        "parameters": {"candidate_labels": ["refund", "faq"]},
    },
    "fill-mask": {"inputs": "Paris is the [MASK] of France."},
    "question-answering": {"inputs": {"question": "Where do I live?", "context": "I live in Berlin."}},
    "image-classification": {"inputs": _IMAGE},
    "object-detection": {"inputs": _IMAGE},
    "automatic-speech-recognition": {"inputs": _SOUND},
    "summarization": {
        "inputs": "The tower is 324 metres tall, about the same height as an 81-storey building."
    },
    "translation": {"inputs": "I live in Berlin."},
    "text2text-generation": {"inputs": "I live in Berlin."},
}
#: Tasks whose inputs may be the bytes of an image.
TAKE_IMAGES: Final = frozenset(("image-classification", "object-detection"))
#: Tasks whose inputs may be the bytes of a sound.
TAKE_SOUNDS: Final = frozenset(("automatic-speech-recognition",))


def raw_inputs(signature: Signature) -> Mapping[str, Any]:
    """Return an example of a request with raw inputs for a model's task.

    >>> raw_inputs(Signature((TensorSpec("x", DataType.FP32, (-1, 2)),), (), platform=PIPELINE))
    {'inputs': {'x': [0.0, 0.0]}}
    """
    specs = signature.inputs
    if signature.platform == PIPELINE and [spec.datatype for spec in specs] != [DataType.BYTES]:
        return {"inputs": {spec.name: filled(extents(spec)[1:], zero(spec)) for spec in specs}}
    return RAW_INPUTS.get(signature.task, {"inputs": "text"})


def extents(spec: TensorSpec) -> list[int]:
    """Return the tensor's shape with 1 for any free extent.

    >>> extents(TensorSpec("x", DataType.FP32, (-1, 3)))
    [1, 3]
    """
    return [max(extent, 1) for extent in spec.shape]


def zero(spec: TensorSpec) -> object:
    """Return one element of the tensor as a JSON value."""
    if spec.datatype is DataType.BYTES:
        return "text"
    if spec.datatype is DataType.BOOL:
        return False
    return 0.0 if spec.datatype.is_float else 0


def filled(shape: Sequence[int], value: object) -> Any:
    """Return nested lists of that shape, filled with the value.

    >>> filled((2, 1), 0)
    [[0], [0]]
    """
    if not shape:
        return value
    return [filled(shape[1:], value)] * shape[0]
