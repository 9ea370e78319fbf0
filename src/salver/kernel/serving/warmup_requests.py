"""Warm-up requests from a model's owner."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from salver.encoding.bodies import HttpBody
from salver.encoding.raw import from_raw
from salver.kernel.engine.warmup import values_of
from salver.stores.protocol import checked
from salver.words.artifacts import Manifest, WarmupInput, WarmupSample
from salver.words.errors import LoadFailed, SalverError
from salver.words.messages import InferRequest, ModelId, Signature
from salver.words.tensor import Array, DataType, Tensor

_MOST_BYTES = 64 << 20
#: Reads a request in the form of Open Inference over HTTP.
Decode = Callable[[HttpBody, Signature], InferRequest]


async def warm_request(
    manifest: Manifest, name: str, signature: Signature, decode: Decode | None
) -> InferRequest:
    """Return the Open Inference request in a file beside the model.

    Raises:
        LoadFailed: the file is missing, too large or invalid.
    """
    path = manifest.path.parent / checked(name)
    if decode is None:
        raise LoadFailed(f"the warm-up request {path} cannot be read: this server has no Open Inference")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LoadFailed(f"warm-up request {path} is larger than {_MOST_BYTES} bytes")
        body = await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise LoadFailed(f"cannot read the warm-up request {path}: {error.strerror}") from error
    try:
        return decode(HttpBody(manifest.id.name, manifest.id.version, body), signature)
    except SalverError as error:
        raise LoadFailed(f"the warm-up request {path} failed: {error}") from error


async def sample_request(id: ModelId, sample: WarmupSample, signature: Signature) -> InferRequest:
    """Return the request of a sample in the configuration.

    Raises:
        LoadFailed: a file is missing or has the wrong size.
    """
    random = np.random.default_rng(0)
    tensors = []
    for name, told in sample.inputs.items():
        array = await asyncio.to_thread(_from_file, told) if told.file else values_of(told, random)
        if signature.batched:
            array = np.repeat(array[None], sample.rows, axis=0)
        tensors.append(Tensor(name, told.datatype, array))
    return InferRequest(id.name, tuple(tensors), id.version)


def _from_file(told: WarmupInput) -> Array:
    path, count = Path(told.file), math.prod(told.shape)
    wanted = count * told.datatype.itemsize
    try:
        with path.open("rb") as file:
            content = file.read(wanted if told.datatype is not DataType.BYTES else _MOST_BYTES)
    except OSError as error:
        raise LoadFailed(f"failed to open file for read {path}: {error.strerror}") from error
    if len(content) < wanted:
        raise LoadFailed(
            f"warmup setting expects {wanted} bytes, but the data provided from {path.name} only has "
            f"{len(content)} bytes"
        )
    try:
        return from_raw(content, told.datatype, told.shape, count, str(path))
    except SalverError as error:
        raise LoadFailed(str(error)) from error
