"""TorchServe's JSON objects and texts about models, the same over REST and gRPC.

Objects describe models (TS-M3, TS-M4); texts report changes (TS-M1, TS-M2, TS-M5, TS-M6). Pure.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from salver.words.handlers import (
    HandlerStatus,
    ModelListing,
    RegistrationResult,
    Scaled,
    WorkerStatus,
    WorkflowStatus,
)

_MOST_LISTED: Final = 100
#: Texts for changes whose workers are not ready, or were not waited for.
UPDATING: Final = "Processing worker updates..."
SCALING: Final = "Workers scaling in progress..."


def describe_version(status: HandlerStatus) -> dict[str, Any]:
    """Return the description of one version."""
    workers = status.workers
    described = {
        "modelName": status.name,
        "modelVersion": status.version,
        "modelUrl": status.url,
        "runtime": status.runtime,
        "minWorkers": workers.least,
        "maxWorkers": workers.most,
        "batchSize": workers.batch_size,
        "maxBatchDelay": workers.max_batch_delay_ms,
        "responseTimeout": workers.response_timeout_s,
        "startupTimeout": workers.startup_timeout_s,
        "maxRetryTimeoutInSec": workers.max_retry_s,
        "clientTimeoutInMills": workers.client_timeout_ms,
        "parallelType": workers.parallel_type,
        "parallelLevel": workers.parallel_level,
        "deviceType": workers.device,
        "deviceIds": list(workers.device_ids),
        "continuousBatching": workers.is_continuous,
        "useJobTicket": workers.needs_ticket,
        "useVenv": workers.has_own_environment,
        "stateful": workers.is_stateful,
        "sequenceMaxIdleMSec": workers.sequence_idle_ms,
        "sequenceTimeoutMSec": workers.sequence_timeout_ms,
        "maxNumSequence": workers.max_sequences,
        "maxSequenceJobQueueSize": workers.sequence_queue,
        "loadedAtStartup": status.is_loaded_at_startup,
        "workers": [_describe_worker(worker) for worker in status.running],
        "jobQueueStatus": {
            "remainingCapacity": max(workers.queue - status.waiting, 0),
            "pendingRequests": status.waiting,
        },
    }
    if not workers.device_ids:
        del described["deviceIds"]
    return described


def describe_versions(
    statuses: Sequence[HandlerStatus], metadata: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the descriptions of versions of a model.

    Args:
        metadata: Description that the handler of the first one gives of itself; None = not asked for.
    """
    versions = [describe_version(status) for status in statuses]
    if metadata is not None and versions:
        versions[0]["customizedMetadata"] = dict(metadata)
    return versions


def _describe_worker(worker: WorkerStatus) -> dict[str, Any]:
    started = datetime.fromtimestamp(worker.started, UTC)
    return {
        "id": str(worker.id),
        "startTime": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": worker.status,
        "memoryUsage": worker.memory,
        "pid": worker.pid,
        "gpu": worker.gpu is not None,
        "gpuUsage": "N/A",
    }


def page(count: int, limit: int, token: int) -> tuple[slice, dict[str, str]]:
    """Return which of ``count`` entries are on a page, and the field with the token of the next page.

    >>> page(5, 2, 0), page(5, 2, 4)
    ((slice(0, 2, None), {'nextPageToken': '2'}), (slice(4, 5, None), {}))
    """
    if not 0 <= limit <= _MOST_LISTED:
        limit = _MOST_LISTED
    begin = min(max(token, 0), count)
    end = min(begin + limit, count)
    if end == count:
        return slice(begin, end), {}
    return slice(begin, end), {"nextPageToken": str(end)}


def list_models(models: Sequence[ModelListing], limit: int, token: int) -> dict[str, Any]:
    """Return a page of the list of models."""
    part, following = page(len(models), limit, token)
    return {**following, "models": [{"modelName": name, "modelUrl": url} for name, url, _ in models[part]]}


def list_workflows(workflows: Sequence[WorkflowStatus], limit: int, token: int) -> dict[str, Any]:
    """Return a page of the list of workflows."""
    part, following = page(len(workflows), limit, token)
    entries = [{"workflowName": status.name, "workflowUrl": status.url} for status in workflows[part]]
    return {**following, "workflows": entries}


def registered_text(result: RegistrationResult) -> str:
    """Return the text for the result of a registration.

    >>> registered_text(RegistrationResult("m", "1.0", 2, is_done=True))
    'Model "m" Version: 1.0 registered with 2 initial workers'
    """
    if not result.is_done and result.workers:
        return UPDATING
    text = f'Model "{result.name}" Version: {result.version} registered with {result.workers} initial workers'
    if not result.workers:
        text += ". Use scale workers API to add workers for the model."
    return text


def scaled_text(how: Scaled, workers: int, model: str, version: str = "") -> str:
    """Return the text for a change of the number of workers.

    >>> scaled_text("done", 2, "m", "1.0")
    'Workers scaled to 2 for model: m, version: 1.0'
    """
    if how == "partly":
        return SCALING
    if how == "begun":
        return UPDATING
    text = f"Workers scaled to {workers} for model: {model}"
    return f"{text}, version: {version}" if version else text


def unregistered_text(model: str) -> str:
    """Return the text for a removed model or version."""
    return f'Model "{model}" unregistered'


def default_text(model: str, version: str) -> str:
    """Return the text for a new default version."""
    return f'Default version successfully updated for model "{model}" to "{version}"'
