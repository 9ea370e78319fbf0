"""Base handler: loading, steps, description."""

import io
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from handler_runs import Context, archive, ask, importable, opened, unpack
from onnx import TensorProto, helper
from soaking import ONLY
from torch.profiler import ProfilerActivity
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.model_files import compile_options, compiled, load_script

from salver.words.errors import LoadFailed

NETWORK = """
import torch

class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.scale
"""
#: A handler of rows of numbers, whose steps are the base's own.
HANDLER = """
from ts.torch_handler.base_handler import BaseHandler

class Rows(BaseHandler):
    def preprocess(self, data):
        return super().preprocess([row["body"] for row in data])

    def describe_handle(self):
        return {"rows": "of three"}

    def get_insights(self, tensor_data, raw, target):
        return [{"raw": raw, "target": target, "shape": list(tensor_data.shape)}]
"""
DENSE = """
from ts.torch_handler.densenet_handler import DenseNetHandler

class Dense(DenseNetHandler):
    pass
"""
ROW = [1.0, 2.0, -3.5]


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def packed(place: Path, **options: Any) -> Path:
    (place / "rows.py").write_text(HANDLER)
    return unpack(archive(place, "rows", place / "rows.py", **options))


def eager(place: Path) -> Path:
    (place / "twice.py").write_text(NETWORK)
    torch.save({"scale": torch.full((3,), 2.0)}, place / "twice.pt")
    return packed(place, serialized_file=place / "twice.pt", model_file=place / "twice.py")


def scripted(place: Path) -> Path:
    torch.jit.script(Doubling()).save(place / "double.pt")
    return packed(place, serialized_file=place / "double.pt")


def in_onnx(place: Path) -> Path:
    row = ["batch", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, place / "double.onnx")
    return packed(place, serialized_file=place / "double.onnx")


def exported(place: Path) -> Path:
    dims = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(Doubling(), (torch.zeros(2, 3),), dynamic_shapes=dims)
    torch.export.save(program, place / "double.pt2")
    return packed(place, serialized_file=place / "double.pt2")


class TestFormats:
    @pytest.mark.clause("TS-A7")
    @pytest.mark.parametrize("made", [eager, scripted, in_onnx, exported])
    def test_each_format_is_loaded_and_asked(self, tmp_path: Path, made: Any) -> None:
        handler, context = opened(made(tmp_path))
        assert handler.initialized and handler.map_location == "cpu" and str(handler.get_device()) == "cpu"
        assert ask(handler, context, ROW, [0.0, 0.5, 9.0]) == [[2.0, 4.0, -7.0], [0.0, 1.0, 18.0]]

    @pytest.mark.clause("TS-A7")
    def test_onnx_is_a_session_that_handlers_may_run_themselves(self, tmp_path: Path) -> None:
        handler, _ = opened(in_onnx(tmp_path))
        (answer,) = handler.model.run(None, {"x": np.array([ROW], "f4")})
        assert answer.tolist() == [[2.0, 4.0, -7.0]]
        with pytest.raises(ValueError, match=r"takes 1 inputs \(x\), and got 2"):
            handler.inference([torch.zeros(1, 3), torch.zeros(1, 3)])

    @ONLY  # most of it is a compiler's
    @pytest.mark.clause("TS-A7", "TS-Y4")
    @pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a compiler of C++")
    def test_what_aot_inductor_has_compiled(self, tmp_path: Path) -> None:
        package = tmp_path / "double.pt2"
        program = torch.export.export(Doubling(), (torch.zeros(1, 3),))
        quick = {"aot_inductor.precompile_headers": False, "aot_inductor.compile_wrapper_opt_level": "O0"}
        torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=quick)
        library = tmp_path / "double.so"
        with zipfile.ZipFile(package) as members:
            (inside,) = [name for name in members.namelist() if name.endswith(".so")]
            library.write_bytes(members.read(inside))
        compiled_ones = [packed(tmp_path, serialized_file=file, force=True) for file in (library, package)]
        for folder in compiled_ones:
            handler, context = opened(folder, {"pt2": {"export": {"aot_compile": True}}})
            assert ask(handler, context, ROW) == [[2.0, 4.0, -7.0]]
        with pytest.raises(RuntimeError, match="No model weights could be loaded"):
            opened(compiled_ones[0])

    @pytest.mark.clause("TS-A7")
    def test_an_unknown_ending_or_none_at_all_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.bin").write_bytes(b"?")
        with pytest.raises(RuntimeError, match="No model weights could be loaded"):
            opened(packed(tmp_path, serialized_file=tmp_path / "model.bin"))
        with pytest.raises(RuntimeError, match="No model weights could be loaded"):
            opened(packed(tmp_path, force=True))

    @pytest.mark.clause("TS-A7")
    @pytest.mark.parametrize("source", ["", NETWORK + NETWORK.replace("Twice", "Thrice")])
    def test_a_model_file_defines_one_class(self, tmp_path: Path, source: str) -> None:
        folder = eager(tmp_path)
        (folder / "twice.py").write_text("import torch\n" + source)
        with pytest.raises(ValueError, match="Expected only one class as model definition"):
            opened(folder)
        (folder / "twice.py").unlink()
        with pytest.raises(RuntimeError, match=r"Missing the model\.py file"):
            opened(folder)

    @pytest.mark.clause("TS-A7")
    def test_an_eager_network_may_come_without_weights(self, tmp_path: Path) -> None:
        (tmp_path / "twice.py").write_text(NETWORK)
        handler, context = opened(packed(tmp_path, model_file=tmp_path / "twice.py"))
        assert ask(handler, context, ROW) == [ROW] and not handler.model.training

    @pytest.mark.clause("TS-A7")
    @pytest.mark.parametrize(
        ("message", "package"),
        [
            ("Unknown type name '__torch__.torch.classes.tensorrt.Engine'", "torch-tensorrt"),
            (
                "Unknown builtin op: ipex_prepack::run.\nCould not find any similar ops",
                "intel-ext",
            ),
            ("Unknown builtin op: torch_xla::f", "torch-xla"),
        ],
    )
    def test_a_file_of_a_library_that_is_not_here_is_refused_by_its_name(
        self, monkeypatch: pytest.MonkeyPatch, message: str, package: str
    ) -> None:
        def load(*_: Any, **__: Any) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(torch.jit, "load", load)
        with pytest.raises(LoadFailed, match=rf"m\.pt was made with the package '{package}"):
            load_script("/models/m.pt", "cpu")
        message = "PytorchStreamReader failed"
        with pytest.raises(RuntimeError, match="PytorchStreamReader"):
            load_script("/models/m.pt", "cpu")


class TestCompilation:
    @pytest.mark.clause("TS-Y4")
    @pytest.mark.parametrize(
        ("pt2", "options"),
        [
            ("inductor", {"backend": "inductor"}),
            ("no_such", None),
            ({"backend": "eager", "mode": "default"}, {"backend": "eager", "mode": "default"}),
            ({"mode": "reduce-overhead"}, {"mode": "reduce-overhead"}),
            ({"compile": {"enable": True}}, {}),
            ({"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}),
            ({"compile": {"enable": True, "backend": "no_such"}}, None),
            ({"compile": {"enable": False, "backend": "eager"}}, None),
            ({"compile": {"enable": "yes"}}, None),
            ({"export": {"aot_compile": True}}, None),
            (None, None),
        ],
    )
    def test_pt2_says_what_is_compiled_and_how(self, pt2: Any, options: dict[str, Any] | None) -> None:
        before = repr(pt2)
        assert compile_options({"pt2": pt2}) == options
        assert repr(pt2) == before
        assert compile_options({}) is None and compile_options(None) is None

    @pytest.mark.clause("TS-Y4")
    def test_pt2_of_another_kind_is_refused(self) -> None:
        with pytest.raises(LoadFailed, match="pt2 should be str or dict"):
            compile_options({"pt2": 3})

    @pytest.mark.clause("TS-A7", "TS-Y4")
    @pytest.mark.parametrize("pt2", ["eager", {"compile": {"enable": True, "backend": "aot_eager"}}])
    def test_a_compiled_model_answers_alike(self, tmp_path: Path, pt2: Any) -> None:
        folder = eager(tmp_path)
        handler, context = opened(folder, {"pt2": pt2})
        assert type(handler.model).__name__ == "OptimizedModule"
        assert ask(handler, context, ROW) == [[2.0, 4.0, -7.0]]

    @pytest.mark.clause("TS-A7")
    def test_what_cannot_be_compiled_runs_as_it_is(self) -> None:
        model = Doubling()
        assert compiled(model, {"backend": "eager", "no_such_option": 1}) is model

    @pytest.mark.clause("TS-A7")
    def test_a_backend_whose_library_is_missing_is_named(self) -> None:
        with pytest.raises(
            LoadFailed, match=r"backend tensorrt needs the package 'torch_tensorrt', which is not"
        ):
            compiled(Doubling(), {"backend": "tensorrt"})


class TestSteps:
    @pytest.fixture
    def rows(self, tmp_path: Path) -> tuple[Any, Context]:
        return opened(eager(tmp_path))

    @pytest.mark.clause("TS-A4")
    def test_a_batch_goes_through_three_steps_without_gradients(self, rows: tuple[Any, Context]) -> None:
        handler, context = rows
        seen: list[Any] = []
        handler.postprocess = lambda data: seen.append(data) or ["x"]
        assert ask(handler, context, ROW) == ["x"]
        assert handler.context is context
        assert seen[0].is_inference() and not seen[0].requires_grad

    @pytest.mark.clause("TS-A4")
    def test_the_time_of_a_run_is_a_metric(self, rows: tuple[Any, Context]) -> None:
        handler, context = rows
        ask(handler, context, ROW)
        ((name, took, index, unit),) = context.metrics.times
        assert (name, index, unit) == ("HandlerTime", None, "ms") and took == round(took, 2) >= 0

    @pytest.mark.clause("TS-A4")
    def test_describe_answers_in_the_place_of_a_prediction(self, rows: tuple[Any, Context]) -> None:
        handler, context = rows
        assert ask(handler, context, ROW, describe="True") == [{"rows": "of three"}]
        assert BaseHandler().describe_handle() is None

    @pytest.mark.clause("TS-A4", "TS-A11")
    @pytest.mark.parametrize(("row", "target"), [({}, 0), ({"target": 2}, 2), ({"target": ""}, 0)])
    def test_explanations_are_of_a_target(
        self, rows: tuple[Any, Context], row: Mapping[str, Any], target: int
    ) -> None:
        handler, context = rows
        context.headers = {"explain": "True"}
        assert handler.handle([{"body": ROW, **row}], context) == [
            {"raw": ROW, "target": target, "shape": [1, 3]}
        ]
        assert handler.explain
        context.headers = {"explain": "true"}
        assert handler.handle([{"body": ROW}], context) == [[2.0, 4.0, -7.0]]

    @pytest.mark.clause("TS-A11")
    def test_a_handler_that_explains_nothing_says_so(self) -> None:
        with pytest.raises(NotImplementedError, match="BaseHandler does not explain"):
            BaseHandler().explain_handle(torch.zeros(1), [b"raw"])

    @pytest.mark.clause("TS-A4")
    def test_steps_are_timed_where_the_configuration_wants_it(self, rows: tuple[Any, Context]) -> None:
        handler, context = rows
        context.model_yaml_config = {"handler": {"profile": True}}
        ask(handler, context, ROW)
        names = ["ts_handler_preprocess", "ts_handler_inference", "ts_handler_postprocess", "HandlerTime"]
        assert context.metrics.names() == names

    @pytest.mark.clause("TS-A4")
    @pytest.mark.parametrize("config", [None, {}, {"handler": None}, {"handler": {"profile": False}}])
    def test_otherwise_they_are_not(self, config: Any) -> None:
        class Step:
            @timed
            def twice(self, value: int) -> int:
                return value * 2

        step: Any = Step()
        assert step.twice(4) == 8
        step.context = Context(Path("/"))
        step.context.model_yaml_config = config
        assert step.twice(4) == 8 and step.twice.__name__ == "twice"
        assert step.context.metrics.times == []

    @pytest.mark.clause("TS-B12")
    def test_runs_are_profiled_where_the_environment_wants_it(
        self, rows: tuple[Any, Context], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        handler, context = rows
        traces: list[Any] = []
        handler.profiler_args = {"activities": [ProfilerActivity.CPU], "on_trace_ready": traces.append}
        monkeypatch.setenv("ENABLE_TORCH_PROFILER", "TRUE")
        assert ask(handler, context, ROW) == [[2.0, 4.0, -7.0]]
        steps = {event.key for event in traces[0].key_averages()} & {"preprocess", "inference", "postprocess"}
        assert len(steps) == 3
        assert ask(handler, context, ROW, explain="True")[0]["target"] == 0
        assert "explain" in {event.key for event in traces[1].key_averages()}

    @pytest.mark.clause("TS-B12")
    def test_a_trace_goes_to_a_folder_of_the_models_name(
        self, rows: tuple[Any, Context], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handler, context = rows
        folders: list[str] = []

        def writer(folder: str) -> Any:
            folders.append(folder)
            return lambda profiler: None

        monkeypatch.setenv("ENABLE_TORCH_PROFILER", "TRUE")
        monkeypatch.setattr(torch.profiler, "tensorboard_trace_handler", writer)
        ask(handler, context, ROW)
        assert folders == [os.path.join("/tmp/pytorch_profiler", "rows")]  # noqa: PTH118


@pytest.mark.clause("TS-A4")
def test_a_subclass_may_replace_how_its_model_is_loaded(tmp_path: Path) -> None:
    folder = eager(tmp_path)
    (folder / "rows.py").write_text(
        HANDLER
        + """
    def _load_pickled_model(self, model_dir, model_file, model_pt_path):
        self.seen = (model_dir, model_file, model_pt_path, self.map_location, self.device.type)
        model = super()._load_pickled_model(model_dir, model_file, model_pt_path)
        model.scale.data *= 5
        return model
"""
    )
    with importable(folder):
        handler, context = opened(folder)
    assert handler.seen == (str(folder), "twice.py", str(folder / "twice.pt"), "cpu", "cpu")
    assert ask(handler, context, ROW) == [[10.0, 20.0, -35.0]]


@pytest.mark.clause("TS-A5")
def test_densenet_handler_takes_tensors_as_torch_saves_them(tmp_path: Path) -> None:
    torch.jit.script(Doubling()).save(tmp_path / "double.pt")
    (tmp_path / "dense.py").write_text(DENSE)
    mar = archive(tmp_path, "dense", tmp_path / "dense.py", serialized_file=tmp_path / "double.pt")
    folder = unpack(mar)
    handler, context = opened(folder)
    file = io.BytesIO()
    torch.save(torch.tensor(ROW), file)
    (answer,) = ask(handler, context, file.getvalue(), file.getvalue())
    assert answer.tolist() == [[2.0, 4.0, -7.0]] * 2
    assert context.metrics.names() == ["HandlerTime"]
    (folder / "double.pt").unlink()
    with pytest.raises(RuntimeError, match=r"Missing the model\.pt file"):
        opened(folder)
