"""Repeated edits of the list of models under load, without a failed request (TF-L6)."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.http as triton
from savedmodels import half_plus_two
from soaking import size
from waiting import PATIENCE_S, until
from zoo import write_constant, write_identity

from salver.testing.process import TensorFlowServingProcess

EDITS = size(200, 45)  # ten for each version, and some of the next round
ROW = np.zeros((1, 16), np.float32)
STAYS = "the models stay as they are"
VERSIONS = (1, 2, 3, 4)


class Models:
    """The list, as its owner edits it.

    Attributes:
        labels: Of model ``c``, whose versions say their number.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "models.config"
        self._base = folder / "constant"
        self.versions = [1]
        self.labels = {"stable": 1}
        self.has_extra = False
        self.write(self.text())

    def text(self) -> str:
        labels = " ".join(f"version_labels {{ key: '{k}' value: {v} }}" for k, v in self.labels.items())
        models = [self._model("c", self.versions, labels), self._model("keeper", [4], "")]
        models += [self._model("extra", [2], "")] * self.has_extra
        return f"model_config_list {{\n{''.join(models)}}}\n"

    def _model(self, name: str, versions: list[int], more: str) -> str:
        policy = f"model_version_policy {{ specific {{ versions: {versions} }} }}"
        where = f"name: '{name}' base_path: '{self._base}' model_platform: 'tensorflow'"
        return f"  config {{ {where} {policy} {more} }}\n"

    def write(self, text: str) -> None:
        """In place, as an editor does."""
        self.file.write_text(text)


class Callers:
    """Ask all the time, with clients of TensorFlow Serving and of Triton."""

    def __init__(self, server: TensorFlowServingProcess) -> None:
        import tensorflow
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        self._tf, self._request = tensorflow, predict_pb2.PredictRequest
        self.channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self._address = server.address
        self.told: Counter[str] = Counter()
        self.failures: list[str] = []
        self._has_ended = threading.Event()
        self._server = server
        work = (self._by_label, self._by_name, self._by_triton, self._over_rest)
        self._threads = [threading.Thread(target=self._go_on, args=(ask,)) for ask in work]

    def ask(self, model: str, version: int | None = None, label: str = "") -> int:
        """The version that answered; its answer is its number."""
        request = self._request()
        request.model_spec.name = model
        if version is not None:
            request.model_spec.version.value = version
        if label:
            request.model_spec.version_label = label
        request.inputs["x"].CopyFrom(self._tf.make_tensor_proto(ROW))
        reply = self._stub.Predict(request, timeout=PATIENCE_S)
        said = int(self._tf.make_ndarray(reply.outputs["y"])[0, 0])
        assert said == reply.model_spec.version.value
        return said

    def is_there(self, model: str, version: int | None = None) -> bool:
        try:
            self.ask(model, version)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error
            return False
        return True

    def _by_label(self) -> None:
        self.told[f"stable {self.ask('c', label='stable')}"] += 1

    def _by_name(self) -> None:
        assert self.ask("keeper") == 4
        self.told["keeper"] += 1

    def _by_triton(self) -> None:
        given = triton.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(ROW)
        with triton.InferenceServerClient(self._address) as client:
            for _ in range(20):
                said = client.infer("c", [given], model_version="stable").as_numpy("y")[0, 0]
                self.told[f"triton {int(said)}"] += 1
                self._has_ended.wait(0.01)

    def _over_rest(self) -> None:
        status, reply = self._server.post("/v1/models/c/labels/stable:predict", {"instances": ROW.tolist()})
        assert status == 200, reply
        self.told[f"rest {int(reply['predictions'][0][0])}"] += 1

    def _go_on(self, ask: Callable[[], None]) -> None:
        while not self._has_ended.is_set():
            try:
                ask()
            except Exception as error:
                self.failures.append(f"{ask.__name__}: {error!r}")
            self._has_ended.wait(0.005)

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        for thread in self._threads:
            thread.join()
        self.channel.close()


@pytest.fixture
def models(tmp_path: Path) -> Models:
    for version in VERSIONS:
        write_constant(tmp_path, version)
    return Models(tmp_path)


@pytest.fixture
def server(models: Models, tmp_path: Path) -> Iterator[TensorFlowServingProcess]:
    options = [
        f"--model_config_file={models.file}",
        "--model_config_file_poll_wait_seconds=0.03",
        "--allow_version_labels_for_unavailable_models=true",
        "--state_dir=",
    ]
    with TensorFlowServingProcess(tmp_path / "log", options) as server:
        server.wait_ready()
        yield server


def edits(models: Models, callers: Callers, server: TensorFlowServingProcess) -> Iterator[None]:
    """One after the other; each is followed by what it is to bring about."""

    def write(text: str = "") -> None:
        models.write(text or models.text())

    def refuse(text: str) -> None:
        write(text)
        time.sleep(0.15)  # for several looks; the log, which would tell, holds repetitions back
        assert callers.ask("c", label="stable") == models.labels["stable"]

    def moved(label: str) -> Callable[[], bool]:
        return lambda: callers.ask("c", label=label) == models.labels[label]

    for old, new in itertools.pairwise(itertools.cycle(VERSIONS)):
        models.has_extra = True
        yield write()
        until(lambda: callers.is_there("extra"), server.output)
        models.versions = [old, new]
        yield write()
        until(lambda: callers.is_there("c", new), server.output)  # noqa: B023
        models.labels["canary"] = new
        yield write()
        until(lambda: canary(callers) == new, server.output)  # noqa: B023
        yield refuse(models.text()[:-4])
        yield write()
        models.labels["stable"] = new
        yield write()
        until(moved("stable"), server.output)
        models.versions, models.labels = [new], {"stable": new}
        yield write()
        until(lambda: not callers.is_there("c", old), server.output)  # noqa: B023
        yield refuse(models.text().replace("keeper", "c"))
        models.has_extra = False
        yield write()
        until(lambda: not callers.is_there("extra"), server.output)
        yield refuse(models.text().replace("key: 'stable' value:", "key: 'stable' value: 7"))


def canary(callers: Callers) -> int:
    """Which version it means; 0 = none yet."""
    try:
        return callers.ask("c", label="canary")
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
        return 0


@pytest.mark.clause("TF-L6", "TF-F5", "TF-L7")
@pytest.mark.soak
def test_edits_under_load(models: Models, server: TensorFlowServingProcess) -> None:
    with Callers(server) as callers:
        for _ in itertools.islice(edits(models, callers, server), EDITS):
            assert callers.failures == []
        told = dict(callers.told)
    assert callers.failures == []
    assert {f"stable {version}" for version in VERSIONS} <= set(told)
    assert {f"triton {version}" for version in VERSIONS} <= set(told)
    assert {f"rest {version}" for version in VERSIONS} <= set(told)
    output = server.output()
    assert "Traceback" not in output
    assert output.count(STAYS) >= 5


def reload_request(*models: tuple[str, str, list[int]], **labels: int) -> Any:
    from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

    request = ReloadConfigRequest()
    for name, path, versions in models:
        config = request.config.model_config_list.config.add(
            name=name, base_path=path, model_platform="tensorflow"
        )
        config.model_version_policy.specific.versions.extend(versions)
        for label, version in labels.items():
            config.version_labels[label] = version
    return request


@pytest.mark.clause("TF-G12", "TF-L6", "TF-G11")
def test_a_list_by_request(models: Models, tmp_path: Path) -> None:
    from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub

    path = str(tmp_path / "constant")
    options = ["--model_name=c", f"--model_base_path={path}", "--state_dir="]
    with TensorFlowServingProcess(tmp_path / "log", options) as server:
        server.wait_ready()
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = ModelServiceStub(channel)

            def refused(request: Any) -> tuple[str, str]:
                with pytest.raises(grpc.RpcError) as caught:
                    stub.HandleReloadConfigRequest(request, timeout=PATIENCE_S)
                return caught.value.code().name, caught.value.details()

            def states(model: str) -> dict[int, int]:
                request = GetModelStatusRequest()
                request.model_spec.name = model
                rows = stub.GetModelStatus(request, timeout=PATIENCE_S).model_version_status
                return {row.version: row.state for row in rows}

            two = reload_request(("c", path, [4]), ("d", path, [1, 2]))
            assert stub.HandleReloadConfigRequest(two, timeout=PATIENCE_S).status.error_code == 0
            assert set(states("d").values()) == {30}, "the call has waited for the new model"
            code, text = refused(reload_request(("c", path, [4]), ("d", path, [1, 2]), stable=3))
            assert (code, text.partition(", which")[0]) == (
                "FAILED_PRECONDITION",
                "Request to assign label to version 3 of model c",
            )
            code, text = refused(reload_request(("c", path, [4]), ("c", path, [4])))
            assert (code, text) == (
                "INVALID_ARGUMENT",
                "Illegal to list model c multiple times in config list",
            )
            code, text = refused(reload_request(("c", path, [4]), ("e", f"{path}/none", [4])))
            assert code == "UNKNOWN"
            assert text.startswith("1 model(s) did not become available: {{{name: e}")
            write_identity(tmp_path, "FP32")
            code, text = refused(
                reload_request(("c", path, [4]), ("i", str(tmp_path / "identity_fp32"), [1]))
            )
            assert code == "UNKNOWN"
            assert "lies in a base path that a request named and is python" in text
            half_plus_two(tmp_path / "half" / "1")
            code, text = refused(reload_request(("c", path, [4]), ("h", str(tmp_path / "half"), [1])))
            assert code == "UNKNOWN"
            assert "is savedmodel (backend tensorflow)" in text
            assert "--trust_pickle" in text
            until(lambda: states("d") == {1: 50, 2: 50}, lambda: states("d"))
            assert states("c")[4] == 30
