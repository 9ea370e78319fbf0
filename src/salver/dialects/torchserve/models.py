"""What does TorchServe tell of models, and of changes to them, over REST and gRPC alike?

The objects of its JSON (TS-M3, TS-M4), and its sentences (TS-M1, TS-M2, TS-M5, TS-M6). It knows no route.

Pure.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from salver.words.handlers import HandlerStatus, ModelListing, RegistrationResult, Scaled, WorkerStatus

_MOST_LISTED: Final = 100
#: Nobody waited for the workers, or they are not all there.
UPDATING: Final = "Processing worker updates..."
SCALING: Final = "Workers scaling in progress..."


def described(status: HandlerStatus) -> dict[str, Any]:
    """One version."""
    how = status.workers
    told = {
        "modelName": status.name,
        "modelVersion": status.version,
        "modelUrl": status.url,
        "runtime": status.runtime,
        "minWorkers": how.least,
        "maxWorkers": how.most,
        "batchSize": how.batch_size,
        "maxBatchDelay": how.max_batch_delay_ms,
        "responseTimeout": how.response_timeout_s,
        "startupTimeout": how.startup_timeout_s,
        "maxRetryTimeoutInSec": how.max_retry_s,
        "clientTimeoutInMills": how.client_timeout_ms,
        "parallelType": how.parallel_type,
        "parallelLevel": how.parallel_level,
        "deviceType": how.device,
        "deviceIds": list(how.device_ids),
        "continuousBatching": how.is_continuous,
        "useJobTicket": how.needs_ticket,
        "useVenv": how.has_own_environment,
        "stateful": how.is_stateful,
        "sequenceMaxIdleMSec": how.sequence_idle_ms,
        "sequenceTimeoutMSec": how.sequence_timeout_ms,
        "maxNumSequence": how.max_sequences,
        "maxSequenceJobQueueSize": how.sequence_queue,
        "loadedAtStartup": status.is_loaded_at_startup,
        "workers": [_worker(worker) for worker in status.running],
        "jobQueueStatus": {
            "remainingCapacity": max(how.queue - status.waiting, 0),
            "pendingRequests": status.waiting,
        },
    }
    if not how.device_ids:
        del told["deviceIds"]
    return told


def description(
    statuses: Sequence[HandlerStatus], metadata: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Versions of a model.

    Args:
        metadata: What the one that is meant tells of itself; None = it was not asked.
    """
    told = [described(status) for status in statuses]
    if metadata is not None and told:
        told[0]["customizedMetadata"] = dict(metadata)
    return told


def _worker(worker: WorkerStatus) -> dict[str, Any]:
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


def page(count: int, limit: int, token: int) -> tuple[slice, str]:
    """Which of so many are on a page, and the token of the next one; empty = it is the last.

    >>> page(5, 2, 0), page(5, 2, 4), page(5, -1, -1), page(5, 0, 0)
    ((slice(0, 2, None), '2'), (slice(4, 5, None), ''), (slice(0, 5, None), ''), (slice(0, 0, None), '0'))
    """
    if not 0 <= limit <= _MOST_LISTED:
        limit = _MOST_LISTED
    begin = min(max(token, 0), count)
    end = min(begin + limit, count)
    return slice(begin, end), str(end) if end < count else ""


def listed(models: Sequence[ModelListing], limit: int, token: int) -> dict[str, Any]:
    """A page of models."""
    part, following = page(len(models), limit, token)
    told: dict[str, Any] = {"nextPageToken": following} if following else {}
    told["models"] = [{"modelName": name, "modelUrl": url} for name, url, _ in models[part]]
    return told


def registered(done: RegistrationResult) -> str:
    """How a registration went.

    >>> registered(RegistrationResult("m", "1.0", 2, is_done=True))
    'Model "m" Version: 1.0 registered with 2 initial workers'
    """
    if not done.is_done and done.workers:
        return UPDATING
    text = f'Model "{done.name}" Version: {done.version} registered with {done.workers} initial workers'
    return text if done.workers else f"{text}. Use scale workers API to add workers for the model."


def scaled(how: Scaled, workers: int, model: str, version: str = "") -> str:
    """How a change of the number of workers went.

    >>> scaled("done", 2, "m", "1.0")
    'Workers scaled to 2 for model: m, version: 1.0'
    """
    if how != "done":
        return SCALING if how == "partly" else UPDATING
    return f"Workers scaled to {workers} for model: {model}" + (f", version: {version}" if version else "")


def unregistered(model: str) -> str:
    """A model, or a version of it, was taken out."""
    return f'Model "{model}" unregistered'


def set_default(model: str, version: str) -> str:
    """Requests without a version go elsewhere now."""
    return f'Default version successfully updated for model "{model}" to "{version}"'
