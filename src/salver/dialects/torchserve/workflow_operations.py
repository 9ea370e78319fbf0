"""What do TorchServe's routes for workflows do (TS-R10, TS-M9)?

They ask those who keep and run workflows, and say how it went in TorchServe's words.
"""

from collections.abc import Mapping
from typing import Any

from salver.dialects.torchserve.faults import NamedFault
from salver.dialects.torchserve.json_layout import TorchServeReply, handed, replied, status_of
from salver.dialects.torchserve.models import page
from salver.dialects.torchserve.operation_calls import Method, Request, form_of
from salver.dialects.torchserve.orders import number, registration
from salver.dialects.torchserve.reply import checked
from salver.transport.calls import RequestContext, take_traits
from salver.transport.effects import changes, reads
from salver.transport.ports import Workflows
from salver.words.errors import BadArchive, NoWorkflow
from salver.words.handlers import WorkflowStatus
from salver.words.messages import Call

_MOST_LISTED = 100


class WorkflowOperations:
    """The operations, by their names.

    Args:
        context: Clock, ids, and who wants to know headers.
        most: Bytes of an answer; 0 = as many as one likes.
    """

    def __init__(self, workflows: Workflows, context: RequestContext, most: int = 0) -> None:
        self._most = most
        self._workflows = workflows
        self._context = context

    def http(self) -> Mapping[str, Method]:
        """Operation -> what it does."""
        return {
            "register_workflow": self._register,
            "list_workflows": self._list,
            "describe_workflow": self._describe,
            "unregister_workflow": self._unregister,
            "predict_workflow": self._predict,
        }

    @changes
    async def _register(self, request: Request) -> TorchServeReply:
        order = registration(request.body, request.content_type, request.fields, called="workflow_name")
        try:
            name = await self._workflows.register(order)
        except BadArchive as error:
            raise NamedFault(str(error), 400, "InvalidWorkflowException") from None
        return status_of(f"Workflow {name} has been registered and scaled successfully.")

    @reads
    async def _list(self, request: Request) -> TorchServeReply:
        fields = request.fields
        every = self._workflows.statuses()
        limit = number(fields.get("limit"), _MOST_LISTED)
        part, following = page(len(every), limit, number(fields.get("next_page_token"), 0))
        told: dict[str, Any] = {"nextPageToken": following} if following else {}
        told["workflows"] = [{"workflowName": one.name, "workflowUrl": one.url} for one in every[part]]
        return replied(told)

    @reads
    async def _describe(self, request: Request) -> TorchServeReply:
        name = request.asked.model
        for status in self._workflows.statuses():
            if status.name == name:
                return replied([_described(status)])
        raise NoWorkflow(f"Workflow not found: {name}")

    @changes
    async def _unregister(self, request: Request) -> TorchServeReply:
        name = request.asked.model
        await self._workflows.unregister(name)
        return status_of(f'Workflow "{name}" unregistered')

    @reads
    async def _predict(self, request: Request) -> TorchServeReply:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.spelled}
        asked = await form_of(request, headers)
        context = self._context
        call = Call("ts-http", context.clock(), None, context.new_id())
        if wanted := context.interest.headers:
            take_traits(call, {name.lower(): value for name, value in request.spelled}, wanted)
        reply = await self._workflows.run(request.asked.model, asked, call)
        return handed(checked(reply, self._most))


def _described(status: WorkflowStatus) -> dict[str, Any]:
    return {
        "workflowName": status.name,
        "workflowUrl": status.url,
        "minWorkers": status.least,
        "maxWorkers": status.most,
        "batchSize": status.batch_size,
        "maxBatchDelay": status.max_batch_delay_ms,
        "workflowDag": status.graph,
    }
