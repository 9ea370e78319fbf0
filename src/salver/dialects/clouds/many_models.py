"""Models of SageMaker's multi-model endpoints (TR-V2).

SageMaker unpacks an archive, loads its folder under a name, and sends requests to that name.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from salver.encoding.bodies import HttpReply
from salver.encoding.json_text import dumps, json_object, kind_of
from salver.kernel.supervise import Supervisor
from salver.transport.ports import Control
from salver.transport.restrict import Guard
from salver.words.artifacts import LoadOrder
from salver.words.errors import Conflict, Forbidden, InvalidInput, SalverError

_LOG = logging.getLogger("salver.sagemaker")
#: SageMaker waits 360 s for an unload to end.
_UNLOAD_S = 350.0
#: Texts of frameworks that lack memory; SageMaker then unloads other models and tries again.
_NO_MEMORY = (
    "out of memory",
    "memoryerror",
    "outofmemory",
    "out_of_memory",
    "alloc_failed",
    "failed to allocate memory",
    "no space left on device",
)


class ManyModels:
    """Loads, lists and unloads the models of an endpoint.

    Args:
        is_allowed: Whether SageMaker may load models.
        guard: Checks the caller's secret; None = none is needed.
        fault: Writes an error of Open Inference.
    """

    def __init__(
        self,
        control: Control,
        guard: Guard | None,
        fault: Callable[[SalverError], HttpReply],
        *,
        is_allowed: bool,
    ) -> None:
        self._control = control
        self._fault = fault
        self._guard = guard
        self._is_allowed = is_allowed
        self._folders: dict[str, str] = {}  # by name; holds models that are loading, too
        self._loaded: set[str] = set()
        self._changes = Supervisor(_LOG, "a request to load or unload a model failed")

    def __repr__(self) -> str:
        return f"<ManyModels {len(self._loaded)} loaded>"

    def __contains__(self, name: object) -> bool:
        return name in self._loaded

    async def ask(self, verb: str, name: str, headers: dict[bytes, bytes], body: bytes) -> HttpReply:
        """Answer ``GET``, ``POST`` or ``DELETE`` of ``/models`` or ``/models/NAME``."""
        if self._guard is not None and (header := self._guard.lacks("model-repository", headers)):
            raise Forbidden(f"This API is restricted, expecting header '{header}'")  # TR-R37
        if verb == "POST":
            return await self._changes.finish("sagemaker", self._load(*_parsed(body)))
        if verb == "GET" and not name:
            ready = sorted([n for n in self._loaded if await self._control.is_ready(n)])
            return HttpReply(200, dumps({"models": [self._entry(n) for n in ready]}))
        if name not in self._loaded:
            return HttpReply(404, b"", ((b"content-type", b"text/plain"),))
        if verb == "GET":
            return HttpReply(200, dumps(self._entry(name)))
        return await self._changes.finish("sagemaker", self._unload(name))

    def _entry(self, name: str) -> dict[str, Any]:
        return {"modelName": name, "modelUrl": self._folders[name]}

    async def _load(self, name: str, folder: str) -> HttpReply:
        """Load a folder; 409: the name is taken, 507: not enough memory, 400: it cannot be loaded."""
        if not self._is_allowed:
            raise InvalidInput(
                "this endpoint loads no models",
                fix="Start with SAGEMAKER_MULTI_MODEL=true in its environment.",
            )
        if name in self._folders or any(s.id.name == name for s in self._control.statuses()):
            text = f"failed to register '{folder}', there is a conflicting mapping for '{name}'"
            return msgspec.structs.replace(self._fault(Conflict(text)), status=409)
        self._folders[name] = folder
        try:
            await self._control.load(name, LoadOrder(folder=folder))
        except SalverError as error:
            _LOG.error("%s from %s cannot be loaded: %s", name, folder, error)
            return await self._abandon(name, error)
        except BaseException:
            del self._folders[name]
            raise
        self._loaded.add(name)
        return HttpReply(200, b"")

    async def _abandon(self, name: str, error: SalverError) -> HttpReply:
        try:
            with contextlib.suppress(SalverError):  # fails if the server loads nothing on request
                await self._control.unload(name)
        finally:
            del self._folders[name]
        error.in_tritons_words = True
        is_full = any(words in str(error).lower() for words in _NO_MEMORY)
        return msgspec.structs.replace(self._fault(error), status=507 if is_full else 400)

    async def _unload(self, name: str) -> HttpReply:
        """Unload a model and wait until its requests have ended, within SageMaker's limit."""
        self._loaded.discard(name)
        try:
            async with asyncio.timeout(_UNLOAD_S):
                await self._control.unload(name, waits=True)
        except TimeoutError:
            _LOG.error("%s has not ended within %g s", name, _UNLOAD_S)
        finally:
            self._folders.pop(name, None)
        return HttpReply(200, b"")


def _parsed(body: bytes) -> tuple[str, str]:
    """Return name and folder of a model to load.

    Raises:
        InvalidInput: One of them is missing or no text.
    """
    root: Mapping[str, Any] = json_object(body)
    for key in ("model_name", "url"):
        value = root.get(key)
        if type(value) is not str or not value:
            what = "missing" if value is None else f"{kind_of(value)}, or empty"
            raise InvalidInput(f"'{key}' is {what}", field=key, fix="Give a string.")
    return root["model_name"], root["url"]
