"""Checks of the instances' health, of their signatures, and of their answers to a probe."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from salver.client import Client
from salver.client.encoding import specs
from salver.features.routing.document import Document
from salver.features.routing.instances import Instance
from salver.features.routing.probing import Probe
from salver.kernel.supervise import Faults, Supervisor, every
from salver.words.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    NotFound,
    SalverError,
    Unsupported,
)
from salver.words.messages import Signature, described

_LOG = logging.getLogger("salver.routing")
#: Failed checks in a row after which an instance is down.
_DOWN_AFTER: Final = 2
#: Seconds that an instance has to tell its health or its signature.
_LIMIT_S: Final = 1.0


class Abilities(msgspec.Struct, frozen=True):
    """Facts of a model from an instance's configuration, beside its signature.

    Attributes:
        keeps_sequences: It keeps state of sequences.
        streams: It answers in pieces.
        optional: Names of inputs that may be left out.
    """

    keeps_sequences: bool = False
    streams: bool = False
    optional: frozenset[str] = frozenset()


class Expected(msgspec.Struct, frozen=True):
    """Name, signature and probe of one model, with which its instances are compared.

    Attributes:
        name, version: Of the model there.
        probe: Request whose answer is known; None = answers are not judged.
        abilities: What the signature does not tell.
    """

    name: str
    version: str
    signature: Signature
    probe: Probe | None = None
    abilities: Abilities = Abilities()


class InstanceCheck:
    """One instance with what is needed to check it.

    Attributes:
        failures: Failed checks in a row.
        compared_at: Time at which it was last compared with what is expected.
        task: Its repeated checks.
    """

    def __init__(self, instance: Instance, client: Client) -> None:
        self.instance = instance
        self.client = client
        self.failures = 0
        self.compared_at = -math.inf
        self.task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<InstanceCheck {self.instance.url}, {self.failures} failures>"


class HealthChecks:
    """Repeated checks of all instances of one model, from its load to its end.

    Args:
        check_of: Returns the check of a new instance.
    """

    def __init__(
        self,
        checks: Sequence[InstanceCheck],
        document: Document,
        expected: Expected,
        check_of: Callable[[Instance], InstanceCheck],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._checks = list(checks)
        self._check_of = check_of
        self._document = document
        self._expected = expected
        self._failed = f"the instances of model {expected.name} are not checked"
        self._tasks = Supervisor(_LOG, self._failed)

    def __repr__(self) -> str:
        return f"<HealthChecks of {self._expected.name}, {len(self._checks)} instances>"

    def start(self, update: Callable[[], Awaitable[None]] | None = None) -> None:
        """Check in the background, if the document wants it.

        Args:
            update: Updates the instances; None = they stay the same.
        """
        for each in self._checks:
            self._repeat(each)
        if update is not None:
            self._tasks.start("discovery", self._every(self._document.discover_s, update))

    def add(self, instance: Instance) -> None:
        """Check a new instance at once, and from now on."""
        checked = self._check_of(instance)
        self._checks.append(checked)
        self._tasks.start("new instance", self._check(checked))
        self._repeat(checked)

    async def remove(self, instance: Instance) -> None:
        """Check an instance no more."""
        for each in [each for each in self._checks if each.instance is instance]:
            self._checks.remove(each)
            if each.task is not None:
                each.task.cancel()
            await each.client.close()

    async def close(self) -> None:
        """End the checks and close their connections."""
        await self._tasks.close()
        for each in self._checks:
            await each.client.close()

    def _repeat(self, checked: InstanceCheck) -> None:
        """Check one instance again and again; one that does not answer must not delay the others' checks."""
        if self._document.check_s:
            work = self._every(self._document.check_s, lambda: self._check(checked))
            checked.task = self._tasks.start(checked.instance.url, work)

    def _every(self, seconds: float, tick: Callable[[], Awaitable[None]]) -> Coroutine[Any, Any, None]:
        return every(seconds, tick, Faults(_LOG, self._failed))

    async def _check(self, checked: InstanceCheck) -> None:
        await check(checked, self._expected, self._clock)


async def check(checked: InstanceCheck, expected: Expected, clock: Callable[[], float]) -> None:
    """Ask an instance whether it is ready, and compare it with what is expected where that is due.

    A success does not end an ejection: only an answer to a request does.
    """
    instance, probe = checked.instance, expected.probe
    try:
        async with asyncio.timeout(_LIMIT_S):
            is_ready = await checked.client.ready(expected.name, expected.version)
    except (SalverError, TimeoutError):
        is_ready = False
    if not is_ready:
        checked.failures += 1
        instance.is_down = instance.is_down or checked.failures >= _DOWN_AFTER
        return
    checked.failures = 0
    is_due = probe is not None and clock() - checked.compared_at >= probe.every_s
    if instance.is_down or instance.unfit or is_due:
        await compare(checked, expected, clock)


async def compare(checked: InstanceCheck, expected: Expected, clock: Callable[[], float]) -> None:
    """Compare an instance's signature, and its answer to the probe; one that fits is not down."""
    instance, probe = checked.instance, expected.probe
    answer = await signature_of(checked.client, expected.name, expected.version)
    if not isinstance(answer, Signature):
        return
    unfit: str | None = difference(expected.signature, answer)
    if probe is not None and not unfit:
        unfit = await probe.judge(checked.client, expected.name, expected.version)
    if unfit is None:  # no answer now says nothing of its answers
        return
    now = checked.compared_at = clock()
    if unfit and unfit != instance.unfit:
        _LOG.warning("instance %s of model %s is left out: %s", instance.url, expected.name, unfit)
    if instance.is_down or instance.unfit:
        instance.joined_at = now
    instance.unfit, instance.is_down = unfit, False


async def signature_of(client: Client, name: str, version: str) -> Signature | SalverError:
    """Return the signature that an instance's metadata tell, or why there is none."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            metadata = await client.metadata(name, version)
        inputs, outputs = tuple(specs(metadata, "inputs")), tuple(specs(metadata, "outputs"))
    except SalverError as error:
        return error
    except TimeoutError:
        return DeadlineExceeded(f"there is no answer within {_LIMIT_S:g} s")
    batched = bool(inputs) and all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    return Signature(inputs, outputs, batched, str(metadata.get("platform", "")))


class _Input(msgspec.Struct, frozen=True):
    name: str
    optional: bool = False


class _Policy(msgspec.Struct, frozen=True):
    decoupled: bool = False


class _Config(msgspec.Struct, frozen=True):
    """The part of Triton's ModelConfig that is read."""

    input: list[_Input] = []
    model_transaction_policy: _Policy = _Policy()
    sequence_batching: dict[str, Any] = {}


async def abilities_of(client: Client, name: str, version: str) -> Abilities:
    """Return what an instance's configuration tells; nothing of a server that tells no configurations.

    Raises:
        LoadFailed: the instance does not answer.
    """
    try:
        async with asyncio.timeout(_LIMIT_S):
            told = await client.config(name, version)
        found = msgspec.convert(told, _Config)
    except (NotFound, Unsupported, InvalidInput, msgspec.ValidationError):
        return Abilities()
    except (SalverError, TimeoutError) as error:
        raise LoadFailed(f"an instance of '{name}' does not tell its configuration: {error}") from error
    optional = frozenset(each.name for each in found.input if each.optional)
    return Abilities(bool(found.sequence_batching), found.model_transaction_policy.decoupled, optional)


def difference(expected: Signature, found: Signature) -> str:
    """Return how an instance's model differs from that of the first instance; empty = it does not."""
    for what, own, other in (
        ("inputs", expected.inputs, found.inputs),
        ("outputs", expected.outputs, found.outputs),
    ):
        if own != other:
            return f"its {what} are {described(other)}, not {described(own)}"
    return ""
