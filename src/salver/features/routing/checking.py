"""Checks of the instances' health and of their signatures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from salver.client import Client
from salver.client.encoding import specs
from salver.features.routing.document import Document
from salver.features.routing.instances import Instance
from salver.kernel.supervise import Supervisor
from salver.words.errors import SalverError
from salver.words.messages import Signature, TensorSpec, described

_LOG = logging.getLogger("salver.routing")
#: Failed checks in a row after which an instance is down.
_DOWN_AFTER: Final = 2


class InstanceCheck:
    """One instance with what is needed to check it.

    Attributes:
        failures: Failed checks in a row.
    """

    def __init__(self, instance: Instance, client: Client) -> None:
        self.instance = instance
        self.client = client
        self.failures = 0

    def __repr__(self) -> str:
        return f"<InstanceCheck {self.instance.url}, {self.failures} failures>"


class HealthChecks:
    """Repeated checks of all instances of one model, from its load to its end.

    Args:
        name: Name of the model here.
        signature: What each instance has to have.
        check_of: Returns the check of a new instance.
    """

    def __init__(
        self,
        checks: Sequence[InstanceCheck],
        document: Document,
        name: str,
        signature: Signature,
        check_of: Callable[[Instance], InstanceCheck],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._checks = list(checks)
        self._check_of = check_of
        self._document = document
        self._name = document.model or name
        self._signature = signature
        self._tasks = Supervisor(_LOG, f"the instances of model {name} are not checked")

    def __repr__(self) -> str:
        return f"<HealthChecks of {self._name}, {len(self._checks)} instances>"

    def start(self, update: Callable[[], Awaitable[None]] | None = None) -> None:
        """Check in the background, if the document wants it.

        Args:
            update: Updates the instances; None = they stay the same.
        """
        if self._document.check_s:
            self._tasks.start("instances", self._run())
        if update is not None:
            self._tasks.start("discovery", self._follow(update))

    def add(self, instance: Instance) -> None:
        """Check a new instance at once, and from now on."""
        checked = self._check_of(instance)
        self._checks.append(checked)
        self._tasks.start("new instance", self._check(checked))

    async def remove(self, instance: Instance) -> None:
        """Check an instance no more."""
        for each in [each for each in self._checks if each.instance is instance]:
            self._checks.remove(each)
            await each.client.close()

    async def close(self) -> None:
        """End the checks and close their connections."""
        await self._tasks.close()
        for each in self._checks:
            await each.client.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._document.check_s)
            await asyncio.gather(*map(self._check, self._checks))

    async def _follow(self, update: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._document.discover_s)
            await update()

    async def _check(self, checked: InstanceCheck) -> None:
        await check(checked, self._name, self._document.version, self._signature, self._clock)


async def check(
    checked: InstanceCheck, name: str, version: str, signature: Signature, clock: Callable[[], float]
) -> None:
    """Ask an instance whether it is ready; one that was down is compared with the others again.

    A success does not end an ejection: only an answer to a request does.
    """
    instance = checked.instance
    try:
        is_ready = await checked.client.ready(name, version)
    except SalverError:
        is_ready = False
    if not is_ready:
        checked.failures += 1
        instance.is_down = instance.is_down or checked.failures >= _DOWN_AFTER
        return
    checked.failures = 0
    if not (instance.is_down or instance.unfit):
        return
    answer = await signature_of(checked.client, name, version)
    if isinstance(answer, Signature):
        instance.unfit = difference(signature, answer)
        instance.is_down = False
        instance.joined_at = clock()


async def signature_of(client: Client, name: str, version: str) -> Signature | SalverError:
    """Return the signature that an instance's metadata tell, or why there is none."""
    try:
        metadata = await client.metadata(name, version)
        inputs, outputs = tuple(specs(metadata, "inputs")), tuple(specs(metadata, "outputs"))
    except SalverError as error:
        return error
    every: Iterable[TensorSpec] = (*inputs, *outputs)
    batched = bool(inputs) and all(spec.shape[:1] == (-1,) for spec in every)
    return Signature(inputs, outputs, batched, str(metadata.get("platform", "")))


def difference(expected: Signature, found: Signature) -> str:
    """Return how an instance's model differs from that of the first instance; empty = it does not."""
    for what, own, other in (
        ("inputs", expected.inputs, found.inputs),
        ("outputs", expected.outputs, found.outputs),
    ):
        if own != other:
            return f"its {what} are {described(other)}, not {described(own)}"
    return ""
