"""Replacement of the list of named models, by request or when its file changes (TF-L6).

A list that cannot be served is refused as a whole and changes nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from salver.dialects.tensorflow import tf_schema, tf_text
from salver.dialects.tensorflow.config import NamedModels
from salver.dialects.tensorflow.model_list import check_change, check_labels, named_models
from salver.kernel.repository import NamedModel
from salver.kernel.supervise import Faults, Supervisor, every
from salver.words.errors import FailedPrecondition, InvalidInput, SalverError, UnknownError, Unsupported
from salver.words.messages import State, VersionStatus

_LOG = logging.getLogger("salver.reloading")
_NO_LIST: Final = (
    "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
    "another."
)


class ControlPlane(Protocol):
    """Control plane, which serves a list."""

    async def replace(self, places: Sequence[NamedModel]) -> None:
        """Serve these named models and no others; return before they are loaded."""
        ...


class VersionStates(Protocol):
    """States of versions (the life cycle's manager)."""

    def labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the version of each label, by model."""
        ...

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Return the states of all versions."""
        ...

    def versions(self, name: str) -> tuple[VersionStatus, ...]:
        """Return a model's versions that are or were to be served."""
        ...

    async def tried(self, names: Collection[str]) -> None:
        """Wait until each wanted version of these models is ready, or has failed once."""
        ...


class ModelListReloader:
    """Keeps the list and replaces it.

    Args:
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        plane: ControlPlane,
        states: VersionStates,
        config: NamedModels,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._plane = plane
        self._states = states
        self._config = config
        self._sleep = sleep
        self._places = config.places or ()
        self._named = {place.path for place in self._places}  # by the operator
        self._turn = asyncio.Lock()
        self._content = b""  # of the file, as it is served
        self._polling = Supervisor(_LOG, "the list of models is not followed any more")

    def __repr__(self) -> str:
        return f"<ModelListReloader of {len(self._places)} models>"

    async def start(self) -> None:
        """Serve the first list and start to follow the file.

        Raises:
            SalverError: The list cannot be served.
        """
        if self._config.places is None:
            return
        self._check(self._places)
        await self._plane.replace(self._places)
        if self._config.file and self._config.file_poll_seconds:
            with contextlib.suppress(SalverError):  # it was removed meanwhile; the next check reports that
                self._content = await asyncio.to_thread(read, self._config.file)
                if named_models(tf_text.parse(self._content, "ModelServerConfig", "")) != self._places:
                    self._content = b""  # it was edited after the command line was read
            faults = Faults(_LOG, "the models stay as they are")
            polling = every(self._config.file_poll_seconds, self.look, faults, self._sleep)
            self._polling.start("poll model config", polling)

    async def stop(self) -> None:
        """Stop following the file."""
        await self._polling.close()

    async def reload(self, config: Any) -> None:
        """Serve the models of a request's ModelServerConfig, and no others.

        Waits until new models have loaded or failed.

        Raises:
            Unsupported: This server's models come from paths.
            InvalidInput: The list cannot be served; nothing has changed.
            UnknownError: A new model did not become available; the list is in force.
        """
        if self._config.places is None:
            raise Unsupported(
                "the models of this server come from its paths, and not from a list",
                fix="Start it with --compat tensorflow-serving.",
            )
        async with self._turn:
            places = [
                msgspec.structs.replace(place, is_requested=place.path not in self._named)
                for place in self._read(config)
            ]
            new = {place.name for place in places} - {place.name for place in self._places}
            await self._take(tuple(places))
            await self._states.tried(new)
            self._check_available(new)

    async def reload_config(self, config: bytes) -> None:
        """Call :meth:`reload` with a serialised ModelServerConfig."""
        await self.reload(tf_schema.build()["ModelServerConfig"].FromString(config))

    def _read(self, config: Any) -> tuple[NamedModel, ...]:
        if config.WhichOneof("config") != "model_config_list":
            raise FailedPrecondition(_NO_LIST)
        return named_models(config)

    async def _take(self, places: tuple[NamedModel, ...]) -> None:
        self._check(places)
        await self._plane.replace(places)
        self._places = places

    def _check(self, places: Sequence[NamedModel]) -> None:
        check_change(self._places, places)
        ready = [status.id for status in self._states.statuses() if status.state is State.READY]
        check_labels(places, self._states.labels(), ready, allows_unready=self._config.allows_unready_labels)

    def _check_available(self, names: Collection[str]) -> None:
        failed: list[tuple[str, str]] = []
        for name in sorted(names):
            rows = self._states.versions(name)
            if any(row.state is State.READY for row in rows):
                continue
            failed += [(f"name: {name} version: {row.id.version}", row.reason) for row in rows]
            if not rows:
                path = next(place.path for place in self._places if place.name == name)
                failed.append((f"name: {name}", f"there is no version in {path}"))
        if failed:
            each = "".join(f"{{{{{id}}} due to error: {reason}}}, " for id, reason in failed)
            raise UnknownError(f"{len(failed)} model(s) did not become available: {{{each}}}")

    async def look(self) -> None:
        """Check the file, if there is one; a list that is refused is tried again at each check.

        Raises:
            SalverError: It cannot be read or served; nothing has changed.
        """
        if not self._config.file:
            return
        content = await asyncio.to_thread(read, self._config.file)
        if content == self._content:
            return
        places = self._read(tf_text.parse(content, "ModelServerConfig", self._config.file))
        async with self._turn:
            await self._take(places)
        self._named = {place.path for place in places}
        self._content = content
        _LOG.info("%s has changed: %d models", self._config.file, len(self._places))


def read(path: str) -> bytes:
    """Return the content of a configuration file. Blocking.

    Raises:
        InvalidInput: It cannot be read, or is too large.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(tf_text.MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or str(error)
        raise InvalidInput(f"{path} cannot be read: {reason}") from error
    if len(content) > tf_text.MAX_BYTES:
        raise InvalidInput(f"{path} is larger than {tf_text.MAX_BYTES >> 20} MiB")
    return content
