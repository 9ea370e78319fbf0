"""Workflows: registration, and the way of a request through their nodes (TS-A12, TS-R10, TS-M9).

Each node is a handler named ``{workflow}__{node}``: a model of the store, or a function of the workflow's own
Python file, which runs in a host process like any other. A node runs when all its predecessors have answered;
branches run in parallel. :mod:`salver.dialects.torchserve.workflow_archive` reads the archives.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from salver.dialects.torchserve.archive_store import ArchiveStore, ArchiveStoreConfig, FoundArchive
from salver.dialects.torchserve.unpacked_archives import UnpackedArchives
from salver.dialects.torchserve.workflow_archive import (
    Node,
    Workflow,
    check_name,
    format_graph,
    read_spec,
    read_workflow,
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
    reply_of,
)
from salver.words.messages import Call, InferRequest, InferResponse

_LOG = logging.getLogger("salver.workflows")
_JSON: Final = "application/json"
_PROTOCOL: Final = "workflow"  # label of the metrics


class WorkflowsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's settings of workflows.

    Attributes:
        archive_store: Where their archives may come from.
        takes_urls: Whether they, and the models of their nodes, may come from elsewhere than the stores.
    """

    archive_store: ArchiveStoreConfig = ArchiveStoreConfig()
    takes_urls: bool = False


class NodeRegistry(Protocol):
    """Registry of the handlers of nodes (dialects/torchserve/handler_store.py)."""

    async def register_part(self, order: Registration, folder: Path | None = None) -> RegistrationResult:
        """Register a handler and wait for its workers. Raises SalverError."""
        ...

    async def unregister_part(self, model: str) -> None:
        """Remove a handler. Raises NoModel or DeadlineExceeded."""
        ...


class Inference(Protocol):
    """Inference on loaded models from within the server (kernel/serving/inner.py)."""

    async def infer(self, request: InferRequest, call: Call) -> InferResponse:
        """Return the answer. Raises SalverError."""
        ...


class _Entry(msgspec.Struct, frozen=True, eq=False):
    """A registered workflow."""

    url: str
    flow: Workflow
    found: FoundArchive
    held: SharedFolder


class Workflows:
    """Implementation of :class:`~salver.transport.ports.Workflows`.

    Args:
        clock: Monotonic seconds, the same as the engines'.
    """

    def __init__(
        self,
        config: WorkflowsConfig,
        parts: NodeRegistry,
        inner: Inference,
        archives: UnpackedArchives,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._parts = parts
        self._inner = inner
        self._archives = archives
        self._clock = clock
        source = config.archive_store
        if not config.takes_urls:
            source = msgspec.structs.replace(source, allowed_urls=())
        self._store = ArchiveStore(source)
        self._entries: dict[str, _Entry] = {}
        self._changing: set[str] = set()  # names that are being registered or unregistered
        self._changes = Supervisor(_LOG, "a workflow was not changed")

    def __repr__(self) -> str:
        return f"<Workflows, {len(self._entries)} registered>"

    # -- changes --

    async def register(self, order: Registration) -> str:
        """Register a workflow and the handlers of its nodes; return its name.

        This goes on if the caller leaves.

        Raises:
            NoWorkflow, BadArchive, BadGraph: the archive is missing or cannot be used.
            Conflict: the name is taken.
            WorkflowFailed: a node failed to register; all others have been removed again.
        """
        return await self._changes.finish("workflow", self._register(order))

    async def unregister(self, name: str) -> None:
        """Remove a workflow and the handlers of its nodes.

        Raises:
            NoWorkflow: it does not exist.
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
            with self._reserved(name):
                held = await asyncio.to_thread(self._archives.hold, found.path)
                file = held.root / archive.handler
                failures = await self._register_nodes(name, flow, order, file)
                if failures:
                    raise WorkflowFailed(
                        f"Workflow {name} has failed to register. Failures: [{', '.join(failures)}]"
                    )
                self._entries[name] = _Entry(order.url, flow, found, held)
            return name
        except BaseException:
            await self._release(found, held)
            raise

    @contextlib.contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        """Reserve a name meanwhile."""
        if name in self._entries or name in self._changing:
            raise Conflict(f"Workflow {name} is already registered.", field="workflow_name")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.discard(name)

    async def _register_nodes(self, name: str, flow: Workflow, order: Registration, file: Path) -> list[str]:
        """Register the nodes, all or none; return the reasons of failures."""
        nodes = list(flow.nodes.values())
        results = await asyncio.gather(*[self._register_node(name, node, order, file) for node in nodes])
        failures = [why for why in results if why]
        if failures:
            registered = [node for node, why in zip(nodes, results, strict=True) if not why]
            await asyncio.gather(*[self._remove_node(name, node) for node in registered])
        return failures

    async def _register_node(self, name: str, node: Node, order: Registration, file: Path) -> str:
        """Register a node; return why it failed, or nothing."""
        settings = node.settings
        model = _handler_name(name, node)
        # A node without a URL is a function of the workflow's own file.
        handler, folder = "", None
        if not node.url:
            handler, folder = f"{file.name}:{node.name}", file.parent
        registration = Registration(
            node.url,
            model,
            handler=handler,
            batch_size=settings.batch_size,
            max_batch_delay_ms=settings.max_batch_delay_ms,
            initial_workers=settings.most,
            response_timeout_s=order.response_timeout_s,
            startup_timeout_s=order.startup_timeout_s,
            is_encrypted=order.is_encrypted,
        )
        try:
            if "://" in node.url and not self._config.takes_urls:
                raise NoModel(f"Given URL {node.url} does not match any allowed URL(s)")
            await self._parts.register_part(registration, folder)
        except WorkersFailed as error:
            return error.message
        except SalverError as error:
            return f"Workflow Node {model} failed to register. Details: {error.message}"
        return ""

    async def _unregister(self, name: str) -> None:
        entry = self._entry(name)
        if name in self._changing:
            raise Conflict(f"Workflow {name} is being unregistered already.", field="workflow_name")
        self._changing.add(name)  # the name stays reserved until its handlers are gone
        del self._entries[name]
        try:
            await asyncio.gather(*[self._remove_node(name, node) for node in entry.flow.nodes.values()])
        finally:
            self._changing.discard(name)
            await self._release(entry.found, entry.held)

    async def _remove_node(self, name: str, node: Node) -> None:
        try:
            await self._parts.unregister_part(_handler_name(name, node))
        except NotFound:
            pass  # removed already, by its own name
        except SalverError as error:
            _LOG.warning("workflow %s: %s", name, error)

    async def _find(self, order: Registration) -> FoundArchive:
        try:
            return await asyncio.to_thread(self._store.find, order.url, is_encrypted=order.is_encrypted)
        except NoModel as error:
            text = error.message.replace("Model store", "Workflow store")
            if text.startswith("Model not found at"):
                text = f"Workflow not found in workflow store: {order.url}"
            raise NoWorkflow(text, field="url") from None

    async def _release(self, found: FoundArchive, held: SharedFolder | None) -> None:
        await asyncio.to_thread(self._store.discard, found)
        if held is not None:
            await asyncio.to_thread(self._archives.release, held)

    # -- lists --

    def statuses(self) -> tuple[WorkflowStatus, ...]:
        """Return the status of every workflow, sorted by name."""
        return tuple(
            WorkflowStatus(
                name,
                entry.url,
                entry.flow.settings.least,
                entry.flow.settings.most,
                entry.flow.settings.batch_size,
                entry.flow.settings.max_batch_delay_ms,
                format_graph(entry.flow.graph),
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
        """Return the answer of the last node; of several, a JSON object of theirs.

        Raises:
            NoWorkflow: it does not exist.
            DeadlineExceeded: the caller's deadline has passed.
            HandlerFailed: all attempts of a node failed.
        """
        flow = self._entry(name).flow
        steps: dict[str, asyncio.Task[HandlerReply]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for node in flow.nodes.values():  # predecessors come first
                    before = {source: steps[source] for source in node.before}
                    steps[node.name] = group.create_task(self._step(name, node, form, before, call))
        except BaseExceptionGroup as failures:  # callers know single errors only
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
        """Run a node once its predecessors have answered."""
        if before:
            answers = {source: (await step).body for source, step in before.items()}
            if len(answers) == 1:
                answers = {"body": next(iter(answers.values()))}
            form = Form(tuple([part(key, body) for key, body in answers.items()]), form.headers)
        request = as_request(_handler_name(name, node), form)
        for attempt in range(1, node.settings.retries + 2):
            now = self._clock()
            deadline = now + node.settings.timeout_ms / 1e3
            if call.deadline is not None:
                if call.deadline <= now:
                    raise DeadlineExceeded("Request timeout expired")
                deadline = min(deadline, call.deadline)
            one = msgspec.structs.replace(call, protocol=_PROTOCOL, arrival=now, deadline=deadline)
            try:
                response = await self._inner.infer(request, one)
            except Cancelled:
                raise
            except SalverError as error:
                _LOG.warning("workflow %s: node %s, attempt %d: %s", name, node.name, attempt, error)
                continue
            return reply_of(response.outputs[0].array if response.outputs else None, response.parameters)
        raise HandlerFailed(f"Error executing {node.name}", 500)


def _handler_name(workflow: str, node: Node) -> str:
    """Return the name of a node's handler."""
    return f"{workflow}__{node.name}"


def _as_json(body: bytes) -> Any:
    """Return an answer as parsed JSON, or as text."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure, which caused the cancellation of the others."""
    first = failures.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
