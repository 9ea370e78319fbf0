"""TorchServe's descriptions of models, and texts about changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve import models as ts_models
from salver.dialects.torchserve.json_layout import to_json
from salver.words.handlers import HandlerStatus, ModelListing, RegistrationResult, Workers, WorkerStatus

_STATUS = HandlerStatus(
    "noop",
    "1.0",
    "noop.mar",
    Workers(queue=10, device="cpu"),
    (WorkerStatus(9000, 1_764_031_567.672, "READY", 13530, 4096),),
    waiting=3,
    is_loaded_at_startup=True,
)
_SAID = b"""[
  {
    "modelName": "noop",
    "modelVersion": "1.0",
    "modelUrl": "noop.mar",
    "runtime": "python",
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 1,
    "maxBatchDelay": 100,
    "responseTimeout": 120,
    "startupTimeout": 120,
    "maxRetryTimeoutInSec": 300,
    "clientTimeoutInMills": 0,
    "parallelType": "",
    "parallelLevel": 0,
    "deviceType": "cpu",
    "continuousBatching": false,
    "useJobTicket": false,
    "useVenv": false,
    "stateful": false,
    "sequenceMaxIdleMSec": 0,
    "sequenceTimeoutMSec": 0,
    "maxNumSequence": 0,
    "maxSequenceJobQueueSize": 0,
    "loadedAtStartup": true,
    "workers": [
      {
        "id": "9000",
        "startTime": "2025-11-25T00:46:07.672Z",
        "status": "READY",
        "memoryUsage": 4096,
        "pid": 13530,
        "gpu": false,
        "gpuUsage": "N/A"
      }
    ],
    "jobQueueStatus": {
      "remainingCapacity": 7,
      "pendingRequests": 3
    }
  }
]"""


@pytest.mark.clause("TS-M3")
def test_a_description_is_laid_out_as_torchserves() -> None:
    assert to_json(ts_models.describe_versions([_STATUS])) == _SAID


@pytest.mark.clause("TS-M3")
def test_what_a_model_tells_of_itself() -> None:
    (told,) = ts_models.describe_versions([_STATUS], {"inputs": 4})
    assert list(told)[-1] == "customizedMetadata"
    assert told["customizedMetadata"] == {"inputs": 4}
    assert ts_models.describe_versions([_STATUS], {})[0]["customizedMetadata"] == {}
    assert ts_models.describe_versions([], {}) == []


@pytest.mark.clause("TS-M3")
def test_devices_only_where_there_are_some() -> None:
    running = (WorkerStatus(9000, 0.0, gpu=2),)
    status = HandlerStatus("m", "1", "m.mar", Workers(device_ids=(0, 2)), running, waiting=200)
    told = ts_models.describe_version(status)
    assert told["workers"][0]["gpu"] is True
    assert told["deviceIds"] == [0, 2]
    assert told["jobQueueStatus"]["remainingCapacity"] == 0


@pytest.mark.clause("TS-M4")
@given(count=st.integers(0, 300), limit=st.integers(1, 100))
def test_pages_hold_every_model_once(count: int, limit: int) -> None:
    models = [ModelListing(str(number), f"{number}.mar") for number in range(count)]
    seen, token = [], "0"
    while token:
        told = ts_models.list_models(models, limit, int(token))
        seen += [(model["modelName"], model["modelUrl"]) for model in told["models"]]
        token = told.get("nextPageToken", "")
    assert seen == [(model.name, model.url) for model in models]


@pytest.mark.clause("TS-M4")
def test_odd_limits() -> None:
    models = [ModelListing(str(number), "") for number in range(120)]
    for limit, token, wanted in [(-1, -1, 100), (0, 0, 0), (101, 0, 100), (5, 118, 2), (5, 500, 0)]:
        assert len(ts_models.list_models(models, limit, token)["models"]) == wanted
    assert ts_models.list_models(models, 0, 0)["nextPageToken"] == "0"


@pytest.mark.clause("TS-M1", "TS-M2", "TS-M5", "TS-M6")
def test_sentences() -> None:
    assert (
        ts_models.registered_text(RegistrationResult("m", "1.0", 1, is_done=False))
        == "Processing worker updates..."
    )
    for is_done in (True, False):
        assert ts_models.registered_text(RegistrationResult("m", "1.0", 0, is_done)) == (
            'Model "m" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers '
            "for the model."
        )
    assert ts_models.scaled_text("done", 2, "m") == "Workers scaled to 2 for model: m"
    assert ts_models.scaled_text("partly", 2, "m") == "Workers scaling in progress..."
    assert ts_models.scaled_text("begun", 2, "m") == "Processing worker updates..."
    assert ts_models.unregistered_text("m") == 'Model "m" unregistered'
    assert ts_models.default_text("m", "2.0") == 'Default version successfully updated for model "m" to "2.0"'
