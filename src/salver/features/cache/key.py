"""Cache keys of requests.

Pure: digests of everything that an answer depends on. Two requests share a key if they request the same
outputs of the same copy of a model with the same inputs, bit by bit. Digests have 128 bits of BLAKE2b, so
that collisions are neither likely nor can be constructed.
"""

import hashlib

import msgspec
import numpy as np

from salver.features.cache.ports import OWNER_BYTES
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import DataType, Tensor

#: Parameters that affect when, for whom and in which form, but not what.
_FORM = frozenset(("timeout", "priority", "tenant", "service_class", "binary_data_output"))


def owner_of(id: ModelId, fingerprint: str) -> bytes:
    """Return the prefix of all keys of one version with one content."""
    told = msgspec.msgpack.encode((id.name, id.version, fingerprint))
    return hashlib.blake2b(told, digest_size=OWNER_BYTES).digest()


def key_of(request: InferRequest, owner: bytes, *, sees_parameters: bool) -> bytes:
    """Return the key of a request.

    Args:
        sees_parameters: The model receives the request's parameters, so they are part of the key.
    """
    inputs = sorted(request.inputs, key=_name)
    parameters = []
    if sees_parameters and request.parameters:
        parameters = sorted((k, v) for k, v in request.parameters.items() if k not in _FORM)
    outputs = sorted(output.name for output in request.outputs)
    facts = [(t.name, t.datatype.name, t.array.shape) for t in inputs]
    told = (
        (outputs, parameters, facts, request.signature) if request.signature else (outputs, parameters, facts)
    )
    digest = hashlib.blake2b(msgspec.msgpack.encode(told), digest_size=16)
    for tensor in inputs:
        if tensor.datatype is DataType.BYTES:
            elements: list[bytes] = tensor.array.ravel().tolist()
            digest.update(msgspec.msgpack.encode([len(element) for element in elements]))
            digest.update(b"".join(elements))
        else:
            digest.update(tensor.array.reshape(-1).view(np.uint8).data)
    return owner + digest.digest()


def _name(tensor: Tensor) -> str:
    return tensor.name
