"""Loader of models whose instances are other servers."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from salver.backends.loading import read_bounded
from salver.client import Client
from salver.client.http import Http
from salver.features.routing.balancing import POLICIES
from salver.features.routing.budget import RetryBudget
from salver.features.routing.checking import (
    Expected,
    HealthChecks,
    InstanceCheck,
    abilities_of,
    compare,
    signature_of,
)
from salver.features.routing.choosing import Router
from salver.features.routing.discovering import Discovery, Look, Resolve, instance_of, look_of, resolve
from salver.features.routing.document import FILE, Document, InstanceTable, parse
from salver.features.routing.engine import CONNECT_S, RoutedModel
from salver.features.routing.instances import Instance
from salver.features.routing.probing import read_probe
from salver.features.routing.sequences import SequenceHomes
from salver.features.routing.streaming import why_not
from salver.kernel.engine.placement import Placement
from salver.kernel.serving.servable import Servable
from salver.parts import ServerList
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, MissingExtra
from salver.words.events import BatchRan
from salver.words.messages import Signature

_MOST_BYTES: Final = 1 << 20
#: Further tries of a model whose instances are discovered: half a minute.
_RETRIES: Final = 5


class InstancesLoader:
    """Loads directories with an ``instances.toml``.

    Args:
        emit: Receives the models' events.
        clock: Monotonic seconds.
        variables: Environment variables, for the instances' token.
        resolve: Returns the addresses of a name.
        servers: Returns the servers of this server's ledger; None = it has none.
    """

    def __init__(
        self,
        emit: Callable[[BatchRan], None],
        clock: Callable[[], float],
        variables: Callable[[str], str | None] = os.environ.get,
        resolve: Resolve = resolve,
        servers: Callable[[], ServerList | None] = lambda: None,
    ) -> None:
        self._resolve = resolve
        self._servers = servers
        self._emit = emit
        self._clock = clock
        self._variables = variables
        self._models: list[RoutedModel] = []
        self._homes: WeakValueDictionary[str, SequenceHomes] = WeakValueDictionary()

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.loading.VersionLoader`.

        Raises:
            LoadFailed: ``instances.toml`` is wrong, or no instance answers.
        """
        path = manifest.path / FILE
        document = parse(await asyncio.to_thread(read_bounded, path, _MOST_BYTES), str(path))
        token = ""
        if document.token:
            token = self._variables(document.token) or ""
            if not token:
                raise LoadFailed(f"the variable {document.token} is not set", field="token")
        try:
            return await self._loaded(manifest, document, token)
        except LoadFailed as error:
            # Those of a fixed list should be there; discovery may be ahead of the instances.
            if document.discover and not isinstance(error, MissingExtra):
                error.retries = _RETRIES
            raise

    async def _loaded(self, manifest: Manifest, document: Document, token: str) -> Servable:
        """Find the instances, compare them and return the model."""
        look: Look | None = None
        tables: Sequence[InstanceTable] = document.tables
        if document.discover:
            name = document.model or manifest.id.name
            look = look_of(document, name, self._resolve, self._servers())
            try:
                tables = await look()
            except OSError as error:
                raise LoadFailed(f"{document.discover} is not resolved: {error}", field="discover") from error
        instances = [instance_of(table, document) for table in tables]

        def check_of(instance: Instance) -> InstanceCheck:
            return InstanceCheck(instance, Client(instance.url, timeout=document.attempt_s, token=token))

        checks = [check_of(each) for each in instances]
        try:
            expected = await self._compared(manifest, document, checks)
        except BaseException:
            for each in checks:
                await each.client.close()
            raise
        router = Router(
            instances,
            POLICIES[document.policy](random.Random()),
            document.ejection,
            RetryBudget(document.retry_ratio, document.retry_reserve),
            random.random,
            document.max_requests,
        )
        inputs = [
            msgspec.structs.replace(spec, optional=spec.name in expected.abilities.optional)
            for spec in expected.signature.inputs
        ]
        engine = RoutedModel(
            manifest.id,
            msgspec.structs.replace(expected.signature, inputs=tuple(inputs)),
            router,
            {each.url: Http(each.url, CONNECT_S) for each in instances},
            document,
            manifest.config,
            token=token,
            clock=self._clock,
            emit=self._emit,
        )
        engine.streams = expected.abilities.streams
        if expected.abilities.keeps_sequences:
            # Shared with the model's next version: an edit of the list must not end sequences.
            engine.homes = self._homes.get(manifest.id.name) or SequenceHomes(manifest.id.name)
            self._homes[manifest.id.name] = engine.homes
        health = HealthChecks(checks, document, expected, check_of, self._clock)
        update = None
        if look is not None:
            update = Discovery(look, engine, health).update
        health.start(update)
        self._models.append(engine)

        async def end() -> None:
            self._models.remove(engine)
            await health.close()

        return Servable(manifest, engine, Placement("thread", 0, 0), [end])

    async def _compared(
        self, manifest: Manifest, document: Document, checks: Sequence[InstanceCheck]
    ) -> Expected:
        """Compare all instances with the first that answers, and with the probe; return what is expected.

        Raises:
            LoadFailed: none answers, or none answers the probe well.
        """
        name = document.model or manifest.id.name
        told = await asyncio.gather(*(signature_of(each.client, name, document.version) for each in checks))
        found = [each for each in told if isinstance(each, Signature)]
        if not found:
            reasons = "; ".join(sorted({str(error) for error in told}))
            raise LoadFailed(f"no instance of '{manifest.id.name}' answers: {reasons}", field="instances")
        probe = None
        if document.probe is not None:
            probe = await asyncio.to_thread(read_probe, manifest.path, document.probe)
        expected = Expected(name, document.version, found[0], probe)
        for each in checks:
            each.instance.is_down = True  # until it has been compared
        await asyncio.gather(*(compare(each, expected, self._clock) for each in checks))
        instances = [each.instance for each in checks]
        if all(each.is_down or each.unfit for each in instances):
            reasons = "; ".join(sorted({each.unfit for each in instances} - {""})) or "none answers the probe"
            raise LoadFailed(f"no instance of '{manifest.id.name}' is fit: {reasons}", field="instances")
        fit = next(each for each in checks if not (each.instance.is_down or each.instance.unfit))
        abilities = await abilities_of(fit.client, name, document.version)
        if abilities.streams and (reason := why_not(expected.signature)):
            raise LoadFailed(f"'{manifest.id.name}' streams, and {reason}", field="instances")
        return msgspec.structs.replace(expected, abilities=abilities)

    @property
    def models(self) -> Sequence[RoutedModel]:
        """Models that are loaded."""
        return tuple(self._models)
