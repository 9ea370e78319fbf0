"""Model registry: push, name, describe and remove versions.

Every change is one transaction of the ledger, with its line in the audit log. Files are written first and the
row after them, so that a row means complete files. Leftovers of a killed push have no row: they are not
served, and their number is not reused. Later pushes remove unfinished files; files already in place are left
to :meth:`ModelRegistry.sweep`, because they may belong to another registry. It knows no server, no framework
and no wire.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, select, update

from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import METRIC, TAG, VERSION
from salver.features.registry import aliases, audit, rows
from salver.features.registry.artifacts import LEFT_SECONDS, Artifacts, digest_of
from salver.features.registry.audit import Change, record
from salver.features.registry.card import front_matter
from salver.features.registry.differences import differences
from salver.features.registry.names import Reference, check_alias, check_key, check_model, check_words
from salver.features.registry.records import (
    Action,
    Actor,
    Difference,
    Entry,
    Fault,
    FileEntry,
    InspectedModel,
    Model,
    Move,
    NewVersion,
    Problem,
    Version,
)
from salver.features.registry.version_rows import check_name, check_unused, next_number, replace, write
from salver.words.errors import InvalidInput

#: Problems of a file that differs, by whether it could be read.
_DIFFERS: Final[Mapping[bool, Problem]] = {False: "unreadable", True: "changed"}
#: Names of a tag's changes in the audit log, by whether it is removed.
_TAGGED: Final[Mapping[bool, Action]] = {False: "tag.set", True: "tag.removed"}


class ModelRegistry:
    """Models, their versions and aliases.

    Args:
        clock: Unix seconds.
        new_id: Returns a unique id.
    """

    def __init__(
        self, ledger: Ledger, artifacts: Artifacts, clock: Callable[[], float], new_id: Callable[[], str]
    ) -> None:
        self.ledger = ledger
        self.artifacts = artifacts
        self._clock = clock
        self._new_id = new_id

    def __repr__(self) -> str:
        return f"<ModelRegistry {self.artifacts.where}>"

    # -- versions ------------------------------------------------------------------------------

    async def push(self, order: NewVersion, found: InspectedModel, actor: Actor) -> Version:
        """Add a version with its files and metadata.

        Raises:
            InvalidInput: a name, tag, metric or the card is not allowed.
            Forbidden: its alias is protected from this actor; nothing is pushed.
            Conflict: a release of its alias is active, or another model's name differs only in case.
            ArtifactsFailed: the files cannot be copied; nothing is pushed.
            LedgerFailed: the row cannot be written; the files are not served.
        """
        keys = _checked(order)
        change = self._change(actor, order.why)
        await self.ledger.read(lambda c: _check_wish(c, change, order))
        with await asyncio.to_thread(self.artifacts.held):
            return await self._push(order, found, change, keys)

    async def _push(
        self, order: NewVersion, found: InspectedModel, change: Change, keys: Mapping[str, Any]
    ) -> Version:
        stop, id = threading.Event(), self._new_id()
        try:
            files = await asyncio.to_thread(self.artifacts.take_in, found.files, id, stop)
        except asyncio.CancelledError:
            stop.set()  # otherwise the thread would copy everything in vain
            raise
        # Files first, then the row: a row always means complete files.
        try:
            number = await self.ledger.write(lambda c: next_number(c, order.model, change))
            await asyncio.to_thread(self.artifacts.place, id, order.model, number)
        except BaseException:
            await asyncio.to_thread(self.artifacts.drop, id)
            raise

        def work(connection: Connection) -> Version:
            write(connection, change, order, found, files, number, keys)
            record(connection, change, "version.pushed", order.model, str(number), "", digest_of(files))
            if order.alias:
                aliases.set_alias(connection, change, order.model, order.alias, number, id)
            return rows.version(connection, order.model, number)

        try:
            return await self.ledger.write(work)
        except LedgerFailed:
            raise  # if the connection broke during the commit, the row may or may not exist
        except Exception:
            await asyncio.to_thread(self.artifacts.remove, order.model, number, id)
            raise

    async def models(self) -> tuple[Model, ...]:
        """Return all models, by name."""
        return await self.ledger.read(rows.models)

    async def model(self, name: str) -> Model:
        """Return a model. Raises NotFound."""
        return await self.ledger.read(lambda c: rows.model(c, name))

    async def versions(
        self, name: str, before: int | None = None, most: int | None = None
    ) -> Sequence[Version]:
        """Return a model's versions with files, the newest first.

        Args:
            before: Only lower numbers; None = from the newest.
            most: Maximum number; None = all.

        Raises:
            NotFound: no such model.
        """
        page = rows.Page(None if before is None else before - 1, most, are_removed_there=False)

        def work(connection: Connection) -> Sequence[Version]:
            rows.model(connection, name)
            return rows.versions(connection, name, page)

        return await self.ledger.read(work)

    async def version(self, reference: Reference) -> Version:
        """Return the version of a reference. Raises NotFound."""
        return await self.ledger.read(
            lambda c: rows.version(c, reference.model, rows.number_of(c, reference))
        )

    async def diff(self, before: Reference, after: Reference) -> tuple[Difference, ...]:
        """Return the differences of the second from the first. Raises NotFound."""

        def work(connection: Connection) -> tuple[Difference, ...]:
            one, two = (
                rows.version(connection, each.model, rows.number_of(connection, each))
                for each in (before, after)
            )
            return differences(one, two)

        return await self.ledger.read(work)

    async def remove(self, model: str, number: int, actor: Actor, why: str = "") -> None:
        """Remove the files of a version; its row, number and history stay.

        Raises:
            NotFound: no such version.
            Conflict: an alias or an active release uses it.
        """
        change, id = self._change(actor, why), self._new_id()

        def work(connection: Connection) -> None:
            rows.number_of(connection, Reference(model, number))
            check_unused(connection, model, number)
            mine = (VERSION.c.model == model, VERSION.c.number == number)
            connection.execute(update(VERSION).where(*mine).values(removed=change.time))
            record(connection, change, "version.removed", model, str(number))

        await self.ledger.write(work)
        await asyncio.to_thread(self.artifacts.remove, model, number, id)

    async def verify(self, name: str = "") -> tuple[Fault, ...]:
        """Read every file, and return those that differ from what was pushed.

        Raises:
            NotFound: no model of that name.
        """

        def work(connection: Connection) -> dict[tuple[str, int], tuple[FileEntry, ...]]:
            if name:
                rows.model(connection, name)
            return rows.files(connection, name)

        pushed = await self.ledger.read(work)
        faults = await asyncio.to_thread(_compared, self.artifacts, pushed, name)
        if not faults:
            return ()
        # What was pushed or removed while files were read is no fault.
        later = await self.ledger.read(work)
        return tuple(
            fault
            for fault in faults
            if ((fault.model, fault.number) in pushed) == ((fault.model, fault.number) in later)
        )

    async def sweep(self, seconds: float = LEFT_SECONDS) -> tuple[str, ...]:
        """Remove leftovers of killed pushes older than that many seconds; return what was removed.

        Raises:
            Conflict: something may be less than a day old and part of a running push.
        """
        if seconds >= LEFT_SECONDS:
            return await self._sweep(seconds)
        with await asyncio.to_thread(self.artifacts.alone):
            return await self._sweep(seconds)

    async def _sweep(self, seconds: float) -> tuple[str, ...]:

        def work(connection: Connection) -> set[tuple[str, int]]:
            there = select(VERSION.c.model, VERSION.c.number).where(VERSION.c.removed.is_(None))
            return {(model, number) for model, number in connection.execute(there)}

        before = self._clock() - seconds
        known = await self.ledger.read(work)
        return await asyncio.to_thread(self.artifacts.sweep, known, before)

    # -- names ---------------------------------------------------------------------------------

    async def set_alias(
        self,
        model: str,
        alias: str,
        number: int,
        actor: Actor,
        why: str = "",
        *,
        expected: int | None = None,
    ) -> Move:
        """Point an alias to a version or, if the model has a rollout policy, propose a release.

        Args:
            expected: Required current version; None = any.

        Raises:
            NotFound: no such model or version.
            Outdated: it does not point to the expected version.
            Forbidden: the alias is protected, and the actor has none of its roles.
            Conflict: another release of this alias is active.
        """
        change, id = self._change(actor, why), self._new_id()
        return await self.ledger.write(
            lambda c: aliases.set_alias(c, change, model, alias, number, id, expected)
        )

    async def delete_alias(
        self, model: str, alias: str, actor: Actor, why: str = "", *, expected: int | None = None
    ) -> None:
        """Delete an alias. Raises what :meth:`set_alias` does."""
        change = self._change(actor, why)
        await self.ledger.write(lambda c: aliases.delete_alias(c, change, model, alias, expected))

    async def protect(
        self, model: str, alias: str, roles: Iterable[str], actor: Actor, why: str = ""
    ) -> None:
        """Require one of these roles to move an alias; empty = no restriction.

        Raises:
            NotFound: no such model.
            Forbidden: it is protected from this actor.
            InvalidInput: no token has such a role.
        """
        change, wanted = self._change(actor, why), tuple(check_key(role, "role") for role in roles)
        await self.ledger.write(lambda c: aliases.protect(c, change, model, alias, wanted))

    async def set_policy(
        self, model: str, policy: Any, actor: Actor, why: str = "", *, expected: Model | None = None
    ) -> None:
        """Set what moving an alias does: ``immediate``, or a rollout policy.

        Args:
            expected: Required current state of the model; None = any.

        Raises:
            NotFound: there is no such model.
            Outdated: the state differs.
        """
        change = self._change(actor, why)
        await self.ledger.write(lambda c: aliases.set_policy(c, change, model, policy, expected))

    async def set_default(self, model: str, alias: str, actor: Actor, why: str = "") -> None:
        """Set the alias of requests that name no version; empty = ``champion``. Raises NotFound."""
        change = self._change(actor, why)
        await self.ledger.write(lambda c: aliases.set_default(c, change, model, alias))

    # -- metadata ------------------------------------------------------------------------------

    async def tag(self, reference: Reference, tags: Mapping[str, str | None], actor: Actor) -> Version:
        """Set tags of a version, or remove them (None), all or none. Raises NotFound, InvalidInput."""
        for key, value in tags.items():
            check_key(key, "tag")
            check_words(value or "", "value of the tag")

        def work(connection: Connection, found: Version, change: Change) -> None:
            for key, value in tags.items():
                before = found.tags.get(key)
                if before != value:
                    replace(connection, found, TAG, {"key": key}, {"value": value})
                    subject = f"{found.number} {key}"
                    record(connection, change, _TAGGED[value is None], found.model, subject, before, value)

        return await self._describe(reference, actor, work)

    async def measure(self, reference: Reference, metrics: Mapping[str, float], actor: Actor) -> Version:
        """Set metrics of a version, measured after it was pushed. Raises NotFound, InvalidInput."""
        _check_metrics(metrics)

        def work(connection: Connection, found: Version, change: Change) -> None:
            for name, value in metrics.items():
                replace(connection, found, METRIC, {"name": name}, {"value": value})
                subject, before = f"{found.number} {name}", found.metrics.get(name)
                record(connection, change, "metric.set", found.model, subject, before, value)

        return await self._describe(reference, actor, work)

    async def _describe(
        self, reference: Reference, actor: Actor, work: Callable[[Connection, Version, Change], None]
    ) -> Version:
        """Change the description of a version in one transaction, and return the version as it is then."""
        change = self._change(actor, "")

        def write(connection: Connection) -> Version:
            number = rows.number_of(connection, reference)
            work(connection, rows.version(connection, reference.model, number), change)
            return rows.version(connection, reference.model, number)

        return await self.ledger.write(write)

    async def history(self, model: str = "", before: int = 0, most: int = 100) -> Sequence[Entry]:
        """Return the last changes of a model, or of all, the newest first; ``before`` a number for paging."""
        return await self.ledger.read(lambda c: audit.history(c, model, before, most))

    def _change(self, actor: Actor, why: str) -> Change:
        check_words(actor.name, "name of who changes it")
        return Change(actor, self._clock(), check_words(why, "reason"))


def _checked(order: NewVersion) -> Mapping[str, Any]:
    """Return the front matter of its card, if all metadata is valid.

    Raises:
        InvalidInput: a name, tag, metric, parent or the card is not allowed.
        MissingExtra: no YAML parser is installed.
    """
    if check_model(order.model).isdecimal():  # its folder would be taken for a version of the folder above
        raise InvalidInput(f"a model name cannot be a number: {order.model}", fix="Begin with a letter.")
    if order.alias:
        check_alias(order.alias)
    for key, value in order.tags.items():
        check_words(value, f"value of the tag {check_key(key, 'tag')!r}")
    _check_metrics(order.metrics)
    for parent in order.parents:
        check_words(parent.reference, "name of a parent")
    check_words(order.source, "source")
    return front_matter(order.card)


def _check_metrics(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InvalidInput(f"the metric {check_key(name, 'metric')!r} is {value}", fix="Give a number.")
        check_key(name, "metric")


def _check_wish(connection: Connection, change: Change, order: NewVersion) -> None:
    """Check that the name is free and the actor may set the alias."""
    check_name(connection, order.model)
    if order.alias:
        aliases.check_guard(connection, change, order.model, order.alias)
        aliases.check_free(connection, order.model, order.alias)


def _compared(
    artifacts: Artifacts, pushed: Mapping[tuple[str, int], tuple[FileEntry, ...]], name: str
) -> tuple[Fault, ...]:
    faults: list[Fault] = []
    for (model, number), files in pushed.items():
        wanted = {file.path: file for file in files}
        there = {file.path: file for file in artifacts.entries(model, number)}
        for path in sorted({*wanted, *there}):
            if path not in there:
                faults.append(Fault(model, number, path, "missing"))
            elif path not in wanted:
                faults.append(Fault(model, number, path, "unknown"))
            elif there[path] != wanted[path]:
                faults.append(Fault(model, number, path, _DIFFERS[bool(there[path].sha256)]))
    for model, number in artifacts.numbers():
        if (model, number) not in pushed and name in ("", model):
            faults.append(Fault(model, number, "", "no such version"))
    return tuple(faults)
