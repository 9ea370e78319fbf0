"""Cache keys of requests.

Pure: digests of everything that an answer depends on. Two requests share a key if they request the same
outputs of the same copy of a model with the same inputs, bit by bit. Digests have 128 bits of BLAKE2b, so
that collisions are neither likely nor can be constructed.
"""

import functools
import hashlib
from zlib import crc32

import msgspec
import numpy as np

from salver.features.cache.ports import OWNER_BYTES
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import DataType, Tensor

#: Parameters that affect when, for whom and in which form, but not what.
_FORM = frozenset(("timeout", "priority", "tenant", "service_class", "binary_data_output"))
_MOST_FORMS = 256
_LONGEST_NAME = 128
_SMALL = 256  # bytes of data whose key is kept
_MOST_KEYS = 1024
#: Name, datatype and shape of an input.
_InputForm = tuple[str, str, tuple[int, ...]]
_GLIMPSE = 64  # bytes of each end of a string


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


class KeyMaker:
    """Maker of the keys of one version: :func:`key_of`, quicker for the usual request.

    Most requests have one numeric input, of few shapes. Of these, the digest's state after all but the data
    is kept, and the keys of the small contents that were asked last: each halves the time of a key
    (``benchmarks/cache_hits.py``).
    """

    def __init__(self, owner: bytes, *, sees_parameters: bool) -> None:
        self.owner = owner
        self._sees_parameters = sees_parameters
        self._begun: dict[_InputForm, hashlib.blake2b] = {}
        self._small = functools.lru_cache(_MOST_KEYS)(self._digested)

    def __repr__(self) -> str:
        return f"<KeyMaker {self.owner.hex()}>"

    def key(self, request: InferRequest) -> bytes:
        """Return the key of a request."""
        inputs = request.inputs
        if (
            len(inputs) != 1
            or request.outputs
            or request.signature
            or (self._sees_parameters and request.parameters)
            or (tensor := inputs[0]).datatype is DataType.BYTES
        ):
            return key_of(request, self.owner, sees_parameters=self._sees_parameters)
        array = tensor.array
        # The plain attribute: Enum.name takes as long as the digest's copy.
        form = (tensor.name, tensor.datatype._value_, array.shape)
        data = array.tobytes()
        if len(data) <= _SMALL and len(form[0]) <= _LONGEST_NAME:
            return self._small(form, data)
        return self._digested(form, data)

    def _digested(self, form: _InputForm, data: bytes) -> bytes:
        begun = self._begun.get(form)
        if begun is None:
            begun = self._begin(form)
        digest = begun.copy()
        digest.update(data)
        return self.owner + digest.digest()

    def _begin(self, form: _InputForm) -> hashlib.blake2b:
        begun = hashlib.blake2b(msgspec.msgpack.encode(([], [], [form])), digest_size=16)
        if len(form[0]) <= _LONGEST_NAME:  # names and shapes come from callers
            if len(self._begun) >= _MOST_FORMS:
                self._begun.clear()
            self._begun[form] = begun
        return begun


def glimpse(request: InferRequest) -> int:
    """Return 32 bits of a quick hash of the ends of each input; equal for equal requests."""
    found = 0
    for tensor in request.inputs:
        array = tensor.array
        if tensor.datatype is DataType.BYTES:
            flat = array.reshape(-1)
            for element in (flat[0], flat[-1]) if flat.size else ():
                found = crc32(element[-_GLIMPSE:], crc32(element[:_GLIMPSE], found))
        else:
            flat = array.reshape(-1)
            found = crc32(flat[-8:].tobytes(), crc32(flat[:8].tobytes(), found))
    return found


def _name(tensor: Tensor) -> str:
    return tensor.name
