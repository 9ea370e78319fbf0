"""What does an owner's warm-up request ask?"""

import asyncio

from salver.artifacts import Manifest
from salver.errors import LoadFailed, SalverError
from salver.messages import InferRequest, Signature
from salver.wire.bodies import HttpBody
from salver.wire.oip_json import OpenInferenceHttp

_MOST_BYTES = 64 << 20


async def warm_request(manifest: Manifest, name: str, signature: Signature) -> InferRequest:
    """The Open Inference request in a file beside the model.

    Raises:
        LoadFailed: the file is missing, too large, or no such request.
    """
    path = manifest.path.parent / name
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LoadFailed(f"warm-up request {path} is larger than {_MOST_BYTES} bytes")
        body = await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise LoadFailed(f"cannot read the warm-up request {path}: {error.strerror}") from error
    try:
        return OpenInferenceHttp().decode(HttpBody(manifest.id.name, manifest.id.version, body), signature)
    except SalverError as error:
        raise LoadFailed(f"the warm-up request {path} failed: {error}") from error
