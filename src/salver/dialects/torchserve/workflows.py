"""Which workflows are there, and how does a request pass through one (TS-A12, TS-R10, TS-M9)?

Each node is a handler named ``{workflow}__{node}``: a model of the store, or a function of the workflow's own
Python file, which runs in a host process like any other. A node is asked when all before it have answered, by
the one door; branches run side by side. What an archive says,
:mod:`salver.dialects.torchserve.workflow_archive` knows.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from salver.dialects.torchserve.archive_store import FoundArchive, Shelf, ShelfConfig
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.dialects.torchserve.workflow_archive import (
    Node,
    Workflow,
    check_name,
    read_spec,
    read_workflow,
    written,
)
from salver.kernel.supervise import Supervisor
from salver.stores.shared_folders import SharedFolder
from salver.words.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    HandlerFailed,
    NoModel,
    NotFound,
    NoWorkflow,
    SalverError,
    WorkersFailed,
    WorkflowFailed,
)
from salver.words.handlers import (
    Form,
    HandlerReply,
    Registration,
    RegistrationResult,
    WorkflowStatus,
    as_request,
    part,
)
from salver.words.handlers import reply_of as read_reply
from salver.words.messages import Call, InferRequest, InferResponse

_LOG = logging.getLogger("salver.workflows")
_JSON: Final = "application/json"
_PROTOCOL: Final = "workflow"  # label of the metrics


class WorkflowsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator may say of workflows.

    Attributes:
        shelf: Where their archives may come from.
        takes_urls: They, and the models of their nodes, may come from elsewhere than the stores.
    """

    shelf: ShelfConfig = ShelfConfig()
    takes_urls: bool = False


class Parts(Protocol):
    """Registers the handlers of nodes (dialects/torchserve/handler_store.py)."""

    async def register_part(self, order: Registration, folder: Path | None = None) -> RegistrationResult:
        """Have it, with its workers. Raises SalverError."""
        ...

    async def unregister_part(self, model: str) -> None:
        """Take it out. Raises NoModel or DeadlineExceeded."""
        ...


class Asks(Protocol):
    """Asks loaded models from within (kernel/serving/inner.py)."""

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """The one answer. Raises SalverError."""
        ...


class _Entry(msgspec.Struct, frozen=True, eq=False):
    """A workflow that is there."""

    url: str
    flow: Workflow
    found: FoundArchive
    held: SharedFolder


class Workflows:
    """Implements :class:`~salver.transport.ports.Workflows`.

    Args:
        clock: Monotonic seconds, the same as the engines'.
    """

    def __init__(
        self,
        config: WorkflowsConfig,
        parts: Parts,
        inner: Asks,
        archives: UnpackedArchives,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._parts = parts
        self._inner = inner
        self._archives = archives
        self._clock = clock
        shelf = config.shelf
        self._shelf = Shelf(shelf if config.takes_urls else msgspec.structs.replace(shelf, allowed_urls=()))
        self._entries: dict[str, _Entry] = {}
        self._changing: set[str] = set()  # names of those that come or go
        self._changes = Supervisor(_LOG, "a workflow was not changed")

    def __repr__(self) -> str:
        return f"<Workflows, {len(self._entries)} registered>"

    # -- changes --

    async def register(self, order: Registration) -> str:
        """Have a workflow and the handlers of its nodes; its name.

        It goes on if the caller leaves.

        Raises:
            NoWorkflow, BadArchive, BadGraph, Conflict: it cannot be had, or is there already.
            WorkflowFailed: one of its nodes cannot be had; nothing of it is left.
        """
        return await self._changes.finish("workflow", self._register(order))

    async def unregister(self, name: str) -> None:
        """Take it out, and the handlers of its nodes.

        Raises:
            NoWorkflow: there is none.
        """
        await self._changes.finish("workflow", self._unregister(name))

    async def _register(self, order: Registration) -> str:
        found = await self._find(order)
        held: SharedFolder | None = None
        try:
            archive = await asyncio.to_thread(read_workflow, found.path)
            flow = await asyncio.to_thread(read_spec, found.path, archive)
            name = order.name or archive.name
            check_name(name)
            with self._alone(name):
                held = await asyncio.to_thread(self._archives.hold, found.path)
                file = held.root / archive.handler
                failures = await self._come(name, flow, order, file)
                if failures:
                    raise WorkflowFailed(
                        f"Workflow {name} has failed to register. Failures: [{', '.join(failures)}]"
                    )
                self._entries[name] = _Entry(order.url, flow, found, held)
            return name
        except BaseException:
            await self._let_go(found, held)
            raise

    @contextlib.contextmanager
    def _alone(self, name: str) -> Any:
        """Nobody else has or takes that name meanwhile."""
        if name in self._entries or name in self._changing:
            raise Conflict(f"Workflow {name} is already registered.", field="workflow_name")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)

    async def _come(self, name: str, flow: Workflow, order: Registration, file: Path) -> list[str]:
        """Register the nodes, all or none; why those failed that did."""
        nodes = list(flow.nodes.values())
        told = await asyncio.gather(*[self._node(name, node, order, file) for node in nodes])
        failures = [why for why in told if why]
        if failures:
            done = [node for node, why in zip(nodes, told, strict=True) if not why]
            await asyncio.gather(*[self._take_out(name, node) for node in done])
        return failures

    async def _node(self, name: str, node: Node, order: Registration, file: Path) -> str:
        """Register one; why it failed, or nothing."""
        how = node.settings
        model = _called(name, node)
        wanted = Registration(
            node.url,
            model,
            handler="" if node.url else f"{file.name}:{node.name}",
            batch_size=how.batch_size,
            max_batch_delay_ms=how.max_batch_delay_ms,
            initial_workers=how.most,
            response_timeout_s=order.response_timeout_s,
            startup_timeout_s=order.startup_timeout_s,
            is_encrypted=order.is_encrypted,
        )
        try:
            if "://" in node.url and not self._config.takes_urls:
                raise NoModel(f"Given URL {node.url} does not match any allowed URL(s)")
            await self._parts.register_part(wanted, None if node.url else file.parent)
        except WorkersFailed as error:
            return error.message
        except SalverError as error:
            return f"Workflow Node {model} failed to register. Details: {error.message}"
        return ""

    async def _unregister(self, name: str) -> None:
        entry = self._entry(name)
        if name in self._changing:
            raise Conflict(f"Workflow {name} is going already.", field="workflow_name")
        self._changing.add(name)
        del self._entries[name]
        try:
            await asyncio.gather(*[self._take_out(name, node) for node in entry.flow.nodes.values()])
        finally:
            self._changing.discard(name)
            await self._let_go(entry.found, entry.held)

    async def _take_out(self, name: str, node: Node) -> None:
        try:
            await self._parts.unregister_part(_called(name, node))
        except NotFound:
            pass  # somebody has taken it out already
        except SalverError as error:
            _LOG.warning("workflow %s: %s", name, error)

    async def _find(self, order: Registration) -> FoundArchive:
        try:
            return await asyncio.to_thread(self._shelf.find, order.url, is_encrypted=order.is_encrypted)
        except NoModel as error:
            text = error.message.replace("Model store", "Workflow store")
            if text.startswith("Model not found at"):
                text = f"Workflow not found in workflow store: {order.url}"
            raise NoWorkflow(text, field="url") from None

    async def _let_go(self, found: FoundArchive, held: SharedFolder | None) -> None:
        await asyncio.to_thread(self._shelf.discard, found)
        if held is not None:
            await asyncio.to_thread(self._archives.release, held)

    # -- what there is --

    def statuses(self) -> tuple[WorkflowStatus, ...]:
        """All, sorted by name."""
        return tuple(
            WorkflowStatus(
                name,
                entry.url,
                entry.flow.settings.least,
                entry.flow.settings.most,
                entry.flow.settings.batch_size,
                entry.flow.settings.max_batch_delay_ms,
                written(entry.flow.graph),
            )
            for name, entry in sorted(self._entries.items())
        )

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise NoWorkflow(f"Workflow not found: {name}", field="workflow_name")
        return entry

    # -- requests --

    async def run(self, name: str, form: Form, call: Call) -> HandlerReply:
        """The answer of its last node; of several, a JSON object of theirs.

        Raises:
            NoWorkflow: there is none.
            DeadlineExceeded: the caller's deadline passed first.
            HandlerFailed: one of its nodes failed, as often as it may.
        """
        flow = self._entry(name).flow
        steps: dict[str, asyncio.Task[HandlerReply]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for node in flow.nodes.values():  # each after those before it
                    before = {source: steps[source] for source in node.before}
                    steps[node.name] = group.create_task(self._step(name, node, form, before, call))
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        ends = {end: steps[end].result().body for end in flow.ends}
        if len(ends) == 1:
            (body,) = ends.values()
            return HandlerReply(body, content_type=_JSON)
        whole = msgspec.json.encode({end: _as_json(body) for end, body in ends.items()})
        return HandlerReply(msgspec.json.format(whole), content_type=_JSON)

    async def _step(
        self,
        name: str,
        node: Node,
        form: Form,
        before: Mapping[str, asyncio.Task[HandlerReply]],
        call: Call,
    ) -> HandlerReply:
        """Ask a node, when those before it have answered."""
        if before:
            answers = {source: (await step).body for source, step in before.items()}
            if len(answers) == 1:
                answers = {"body": next(iter(answers.values()))}
            form = Form(tuple([part(key, body) for key, body in answers.items()]), form.headers)
        request = as_request(_called(name, node), form)
        for tries in range(node.settings.retries + 1):
            now = self._clock()
            until = now + node.settings.timeout_ms / 1e3
            if call.deadline is not None and call.deadline <= now:
                raise DeadlineExceeded("Request timeout expired")
            one = msgspec.structs.replace(
                call,
                protocol=_PROTOCOL,
                arrival=now,
                deadline=until if call.deadline is None else min(until, call.deadline),
            )
            try:
                response = await self._inner.infer(request, one)
            except Cancelled:
                raise
            except SalverError as error:
                _LOG.warning("workflow %s: node %s, try %d: %s", name, node.name, tries + 1, error)
                continue
            outputs = response.outputs
            return read_reply(outputs[0].array if outputs else None, response.parameters)
        raise HandlerFailed(f"Error executing {node.name}", 500)


def _called(workflow: str, node: Node) -> str:
    """The handler of a node."""
    return f"{workflow}__{node.name}"


def _as_json(body: bytes) -> Any:
    """What a node has answered, as JSON has it."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; the others were given up for it."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
