"""Models of Triton's Python backend: imports, arguments and responses (TR-A2, TR-A3, TR-C16)."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from triton_python_models import (
    BACKEND,
    BATCHED,
    DOUBLE,
    X,
    Y,
    load,
    own_process,  # noqa: F401
    request,
    write,
)

from salver.backends.protocol import Answer, LoadOptions
from salver.dialects.triton.python_backend import FORMAT, pb_utils
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.testing.backends import BackendConformance, Case, manifest_of
from salver.words.artifacts import Instances, Manifest, ModelConfig, Reshape
from salver.words.errors import (
    Cancelled,
    Conflict,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NotFound,
    NotReady,
    SalverError,
    UnknownError,
    Unsupported,
)
from salver.words.messages import ModelId, TensorSpec
from salver.words.tensor import DataType, bf16_from_fp32


def rows(*values: float) -> dict[str, Any]:
    return {"X": np.repeat(np.array(values, "f4")[:, None], 2, axis=1)}


def outputs_of(answer: Answer | SalverError) -> dict[str, Any]:
    assert isinstance(answer, Answer), answer
    return {name: array.tolist() for name, array in answer.outputs.items()}


class TestTritonPython(BackendConformance):
    backend = BACKEND
    keeps_suffix = True

    @staticmethod
    def make_case(folder: Path) -> Case:
        x = np.random.default_rng(0).normal(size=(4, 2)).astype("f4")
        return Case(write(folder, DOUBLE), {"X": x}, {"Y": x * 2}, config=BATCHED)

    def load(self, path: Path, config: ModelConfig = BATCHED) -> Any:
        return BACKEND.load(manifest_of(BACKEND, path, config), LoadOptions(own_process=True))


@pytest.mark.clause("TR-A2")
@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("class TritonPythonModel:\n    pass\n", FORMAT),
        ("from elsewhere import TritonPythonModel\n", FORMAT),
        ("from elsewhere import Served as TritonPythonModel\n", FORMAT),
        ("class Served:\n    pass\n\n\nTritonPythonModel = Served\n", FORMAT),
        ("class TritonPythonModel:\n    def execute(self, requests:\n", FORMAT),
        ("class Model:\n    pass\n\n\nclass TritonPythonModel:\n    pass\n", FORMAT),
        ("class Model:\n    pass\n# not a TritonPythonModel\n", "python"),
        ("'class TritonPythonModel:'\n", None),
        ("from elsewhere import TritonPythonModel as Other\n", None),
    ],
)
def test_the_two_kinds_are_told_apart_by_content(source: str, form: str | None, tmp_path: Path) -> None:
    """TR-A2: and nothing is run for it."""
    path = tmp_path / "model.py"
    path.write_text(f"raise SystemExit\n{source}")
    assert BACKEND.recognise(path) == form
    assert BACKEND.recognise(tmp_path) == form


def test_it_is_refused_outside_a_process_of_its_own(tmp_path: Path) -> None:
    manifest = Manifest(ModelId("m", "1"), write(tmp_path, DOUBLE), FORMAT, "python", BATCHED)
    with pytest.raises(LoadFailed, match="process of its own"):
        BACKEND.load(manifest, LoadOptions())
    assert "triton_python_backend_utils" not in sys.modules


@pytest.mark.clause("TR-A2")
def test_each_request_of_a_run_brings_its_own_rows(tmp_path: Path) -> None:
    """TR-A2: not one stacked tensor; and each gets its own answer."""
    body = """class TritonPythonModel:
    def execute(self, requests):
        many = len(requests)
        tensors = [pb_utils.get_input_tensor_by_name(r, "X") for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", t.as_numpy() + 10 * many)]) for t in tensors]
"""
    model = load(write(tmp_path, body))
    answers = model.answer([request(rows(1)), request(rows(2, 3))])
    assert [outputs_of(a)["Y"] for a in answers] == [[[21, 21]], [[22, 22], [23, 23]]]
    assert model.run(rows(5))["Y"].tolist() == [[15, 15]]
    model.close()


CODES = """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            x = pb_utils.get_input_tensor_by_name(r, "X").as_numpy()
            code = int(x[0, 0])
            if code < 8:
                out.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"code {code}", code)))
            elif code == 8:
                out.append(pb_utils.InferenceResponse([], pb_utils.TritonError("plain")))
            elif code == 9:
                out.append("no response")
            elif code == 10:
                out.append(pb_utils.InferenceResponse([]))
            elif code == 11:
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([["a", "b"]], object))]))
            else:
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x)]))
        return out
"""


@pytest.mark.clause("TR-A3")
def test_an_error_of_one_request_costs_its_mates_nothing(tmp_path: Path) -> None:
    """TR-A3: error objects of every code, and answers that are none."""
    model = load(write(tmp_path, CODES))
    answers = model.answer([request(rows(code)) for code in range(13)])
    errors = [a for a in answers if isinstance(a, SalverError)]
    kinds = [UnknownError, ModelFailed, NotFound, InvalidInput, NotReady, Unsupported, Conflict, Cancelled]
    assert [type(e) for e in errors] == [*kinds, *[ModelFailed] * 4]
    assert [str(e) for e in errors[:9]] == [*(f"code {n}" for n in range(8)), "plain"]
    assert "Expected an 'InferenceResponse' object" in str(errors[9])
    assert "did not give its output 'Y'" in str(errors[10])
    assert "is object" in str(errors[11]) or "expected FP32" in str(errors[11])
    assert outputs_of(answers[12]) == {"Y": [[12, 12]]}
    assert pb_utils.TritonError("x", pb_utils.TritonError.NOT_FOUND).code() == pb_utils.TritonError.NOT_FOUND
    assert pb_utils.TritonError("x").code() == pb_utils.TritonError.INTERNAL


@pytest.mark.clause("TR-A3")
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("raise ValueError('asked to raise')", "message: ValueError: asked to raise"),
        ("raise pb_utils.TritonModelException('no way')", "message: TritonModelException: no way"),
        ("raise SystemExit(3)", "message: SystemExit: 3"),
        ("return []", "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0"),
        ("return None", "Expected a list in the execute return"),
    ],
)
def test_what_fails_a_whole_run_says_so_as_triton(statement: str, said: str, tmp_path: Path) -> None:
    """TR-A3."""
    body = f"class TritonPythonModel:\n    def execute(self, requests):\n        {statement}\n"
    model = load(write(tmp_path, body))
    with pytest.raises(ModelFailed) as caught:
        model.answer([request(rows(1))])
    assert str(caught.value).startswith("Failed to process the request(s) for model 'm_0', message: ")
    assert said in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


FACTS = ModelConfig(
    inputs=(X,), outputs=(TensorSpec("FACTS", DataType.BYTES, (1,)), TensorSpec("Y", DataType.FP32, (-1, 2)))
)


@pytest.mark.clause("TR-A3")
def test_what_a_model_sees_of_a_request(tmp_path: Path) -> None:
    """TR-A3: id, parameters, timeout, sequence, flags and wanted outputs."""
    body = """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            facts = [r.request_id(), json.loads(r.parameters()), r.timeout(), r.correlation_id(), r.flags(),
                     sorted(r.requested_output_names()), [t.name() for t in r.inputs()], r.is_cancelled()]
            out.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("FACTS", np.array([json.dumps(facts)], dtype=np.object_)),
                pb_utils.Tensor("Y", r.inputs()[0].as_numpy())]))
        return out
"""
    model = load(write(tmp_path, body), FACTS)
    asked = [
        request(rows(1), ("FACTS", "Y")),
        request(rows(1), ("FACTS",), "me", a=1, b=True, c="s", d=1.5, timeout=1000, priority=2),
        request(rows(1), ("FACTS",), sequence_id=42, sequence_start=True, sequence_end=True),
        request(rows(1), ("FACTS",), sequence_id="abc", sequence_end=True, triton_enable=True),
    ]
    answers = [outputs_of(a) for a in model.answer(asked)]
    assert [json.loads(a["FACTS"][0]) for a in answers] == [
        ["", {}, 0, 0, 0, ["FACTS", "Y"], ["X"], False],
        ["me", {"a": 1, "b": True, "c": "s", "d": 1.5}, 1000, 0, 0, ["FACTS"], ["X"], False],
        ["", {}, 0, 42, 3, ["FACTS"], ["X"], False],
        ["", {}, 0, "abc", 2, ["FACTS"], ["X"], False],
    ]
    assert [set(a) for a in answers] == [{"FACTS", "Y"}, {"FACTS"}, {"FACTS"}, {"FACTS"}]


@pytest.mark.clause("TR-A2")
def test_what_initialize_is_told(tmp_path: Path) -> None:
    """TR-A2: the keys of Triton, every value a text; one name for each instance."""
    body = """class TritonPythonModel:
    def initialize(self, args):
        assert all(type(value) is str for value in args.values())
        self.args = args

    def execute(self, requests):
        text = json.dumps(self.args)
        facts = pb_utils.Tensor("FACTS", np.array([text], object))
        return [pb_utils.InferenceResponse([facts]) for r in requests]
"""
    path = write(tmp_path, body)
    told = {
        "name": "m",
        "max_batch_size": 0,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [-1, 2]}],
        "output": [{"name": "FACTS", "data_type": "TYPE_STRING", "dims": [1]}],
        "instance_group": [
            {"name": "m_0", "kind": "KIND_CPU", "count": 2},
            {"name": "extra", "kind": "KIND_MODEL", "count": 2},
        ],
    }
    seen = []
    for instance in (0, 1, 3):
        model = load(path, FACTS, json.dumps(told), instance)
        (answer,) = model.answer([request(rows(1), ("FACTS",))])
        seen.append(json.loads(outputs_of(answer)["FACTS"][0]))
        model.close()
    assert seen[0] == {
        "model_config": json.dumps(told),
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_instance_name": "m_0_0",
        "model_repository": str(tmp_path / "m"),
        "model_version": "1",
        "model_name": "m",
    }
    assert [s["model_instance_name"] for s in seen] == ["m_0_0", "m_0_1", "extra_1"]
    assert [s["model_instance_kind"] for s in seen] == ["CPU", "CPU", "MODEL"]


COMPLETE = """class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        assert config.as_dict()["name"] == "m"
        config.set_max_batch_size(4)
        config.set_dynamic_batching()
        config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [2], "optional": False})
        config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [2]})
        return config

    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        assert pb_utils.get_input_config_by_name(self.config, "X")["dims"] == [2]
        assert pb_utils.get_output_config_by_name(self.config, "Y")["data_type"] == "TYPE_FP32"
        assert pb_utils.get_output_config_by_name(self.config, "Z") is None
        assert not pb_utils.using_decoupled_model_transaction_policy(self.config)

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy() * 2)])
                for r in requests]
"""


@pytest.mark.clause("TR-C16")
def test_a_model_completes_its_own_configuration(tmp_path: Path) -> None:
    """TR-C16."""
    model: Any = load(write(tmp_path, COMPLETE), ModelConfig())
    signature = model.signature
    assert (signature.batched, signature.max_rows, signature.platform) == (True, 4, "python")
    assert signature.inputs == (X,) and signature.outputs == (Y,)
    config = model._model.config
    assert config["max_batch_size"] == 4
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]
    assert config["input"][0]["format"] == "FORMAT_NONE"
    assert model.run(rows(1, 2))["Y"].tolist() == [[2, 2], [4, 4]]


@pytest.mark.clause("TR-C16")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("set_max_batch_size(4)", "configuration specified max_batch_size 8"),
        ("add_input({'data_type': 'TYPE_FP32', 'dims': [2]})", "missing 'name'"),
        (
            "add_input({'name': 'Z', 'dims': [2]})",
            "input 'Z' in auto-complete-config function for model 'm' is missing 'data_type'",
        ),
        ("add_output({'name': 'Z', 'data_type': 'TYPE_FP32'})", "missing 'dims'"),
        (
            "add_output({'name': 'Z', 'data_type': 'TYPE_FP32', 'dims': [1], 'optional': True})",
            "other than 'name', 'data_type' and 'dims'",
        ),
        (
            "add_input({'name': 'X', 'data_type': 'TYPE_FP64', 'dims': [2]})",
            "expects datatype TYPE_FP32 for input 'X', model provides TYPE_FP64",
        ),
        ("add_input({'name': 'X', 'data_type': 'TYPE_FP32', 'dims': [3]})", "the model expects dims [3]"),
        (
            "add_input({'name': 'X', 'data_type': 'TYPE_FP32', 'dims': [2], 'optional': True})",
            "expects optional True",
        ),
        ("add_input({'name': 'Z', 'data_type': 'TYPE_FP31', 'dims': [2]})", "data_type 'TYPE_FP31'"),
        ("add_input({'name': 'Z', 'data_type': 'TYPE_FP32', 'dims': [0]})", "dims [0]"),
        ("set_model_transaction_policy({'other': True})", "other than 'decoupled'"),
    ],
)
def test_a_completion_that_contradicts_is_refused(call: str, said: str, tmp_path: Path) -> None:
    """TR-C16: in Triton's words."""
    body = f"""class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.{call}
        return config

    def execute(self, requests):
        return []
"""
    with pytest.raises(LoadFailed) as caught:
        load(write(tmp_path, body))
    assert said in str(caught.value)


@pytest.mark.clause("TR-A2")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("TritonPythonModel = 1\n", "defines no class TritonPythonModel"),
        ("class TritonPythonModel:\n    pass\n", "no method execute"),
        ("class TritonPythonModel:\n    def execute(self, requests:\n", "line 7"),
        ("import nowhere_to_be_found\n" + DOUBLE, "ModuleNotFoundError"),
        (
            DOUBLE + "    def initialize(self, args):\n        raise RuntimeError('cannot start')\n",
            "RuntimeError: cannot start",
        ),
        (
            DOUBLE + "    def initialize(self, args):\n        pb_utils.is_model_ready('m')\n",
            "this model was loaded without a server",
        ),
        (
            DOUBLE + "    def auto_complete_config(config):\n        pass\n",
            "auto_complete_config returned NoneType",
        ),
    ],
)
def test_what_its_owner_reads_when_it_does_not_load(body: str, said: str, tmp_path: Path) -> None:
    """TR-A2."""
    with pytest.raises(LoadFailed) as caught:
        load(write(tmp_path, body))
    assert said in str(caught.value)


@pytest.mark.clause("TR-C16")
def test_without_inputs_or_outputs_it_says_where_to_write_them(tmp_path: Path) -> None:
    """TR-C16."""
    with pytest.raises(
        LoadFailed, match=r"the inputs and outputs of model 'm' are not described\. Write a config\.pbtxt"
    ):
        load(write(tmp_path, DOUBLE), ModelConfig())


@pytest.mark.clause("TR-C4")
def test_other_shapes_than_callers_see(tmp_path: Path) -> None:
    """TR-C4: the model gets its own; not where it is decoupled, whose requests nobody reshapes."""
    told = {
        "name": "m",
        "max_batch_size": 0,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [4], "reshape": {"shape": [2, 2]}}],
        "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2, 2]}],
    }
    seen = TensorSpec("X", DataType.FP32, (4,))
    config = ModelConfig(inputs=(seen,), outputs=(Y,), reshape=Reshape(inputs={"X": (2, 2)}))
    model = load(write(tmp_path, DOUBLE), config, json.dumps(told))
    assert model.signature.inputs == (TensorSpec("X", DataType.FP32, (2, 2)),)
    decoupled = json.dumps(told | {"model_transaction_policy": {"decoupled": True}})
    with pytest.raises(LoadFailed, match="Take reshape out"):
        load(write(tmp_path, DOUBLE), config, decoupled)


@pytest.mark.clause("TR-A2")
def test_it_imports_its_neighbours_whenever_it_likes(tmp_path: Path) -> None:
    """TR-A2: beside the file, beside the version, and relative ones."""
    body = """class TritonPythonModel:
    def execute(self, requests):
        import beside_file
        import beside_version
        from . import relative
        add = beside_file.ADD + beside_version.ADD + relative.ADD
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy() + add)])
                for r in requests]
"""
    path = write(tmp_path, body)
    (path.parent / "beside_file.py").write_text("ADD = 1\n")
    (path.parent / "relative.py").write_text("ADD = 10\n")
    (path.parent.parent / "beside_version.py").write_text("ADD = 100\n")
    assert load(path).run(rows(0))["Y"].tolist() == [[111, 111]]


@pytest.mark.clause("TR-A3")
def test_a_model_may_write_to_its_inputs_and_keep_them(tmp_path: Path) -> None:
    """TR-A3: as in Triton, where the memory is the model's."""
    body = """class TritonPythonModel:
    def initialize(self, args):
        self.kept = []

    def execute(self, requests):
        out = []
        for r in requests:
            x = r.inputs()[0].as_numpy()
            x += 1
            self.kept.append(x)
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", sum(self.kept))]))
        return out
"""
    model = load(write(tmp_path, body))
    shared = rows(1)
    shared["X"].flags.writeable = False  # a view of shared memory
    assert model.run(shared)["Y"].tolist() == [[2, 2]]
    shared["X"].flags.writeable = True
    shared["X"][:] = 50  # the next run
    assert model.run(rows(2))["Y"].tolist() == [[5, 5]]


@pytest.mark.clause("TR-A2")
def test_an_async_execute_and_finalize(tmp_path: Path) -> None:
    """TR-A2."""
    body = f"""import asyncio
from pathlib import Path


class TritonPythonModel:
    async def execute(self, requests):
        await asyncio.sleep(0)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", r.inputs()[0].as_numpy())])
                for r in requests]

    def finalize(self):
        Path({str(tmp_path / "closed")!r}).touch()
"""
    model = load(write(tmp_path, body))
    assert model.run(rows(3))["Y"].tolist() == [[3, 3]]
    assert model.run(rows(4))["Y"].tolist() == [[4, 4]]
    assert not (tmp_path / "closed").exists()
    model.close()
    assert (tmp_path / "closed").exists()


@pytest.mark.clause("TR-A3")
def test_parameters_of_a_response(tmp_path: Path) -> None:
    """TR-A3."""
    body = """class TritonPythonModel:
    def execute(self, requests):
        texts = ['{"took": 3, "by": "me"}', "[1]", "{", '{"a": {}}']
        y = [r.inputs()[0].as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", a)], parameters=texts[int(a[0, 0])])
                for a in y]
"""
    first, *others = load(write(tmp_path, body)).answer([request(rows(n)) for n in range(4)])
    assert isinstance(first, Answer) and first.parameters == {"took": 3, "by": "me"}
    assert all(isinstance(error, ModelFailed) and "parameters" in str(error) for error in others)


@pytest.mark.clause("TR-A3")
def test_texts_go_in_and_out_as_bytes_objects(tmp_path: Path) -> None:
    """TR-A3: what is no text is said as text."""
    body = """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            x = r.inputs()[0].as_numpy()
            assert x.dtype == np.object_ and all(type(v) is bytes for v in x.ravel())
            y = np.array([[x[0, 0].upper(), "\\u00e9", 7, None]], dtype=np.object_)
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", y)]))
        return out
"""
    words = TensorSpec("X", DataType.BYTES, (-1, -1))
    config = ModelConfig(inputs=(words,), outputs=(msgspec.structs.replace(words, name="Y"),))
    model = load(write(tmp_path, body), config)
    (answer,) = model.answer([request({"X": np.array([[b"abc"]], object)})])
    assert outputs_of(answer)["Y"] == [[b"ABC", "é".encode(), b"7", b"None"]]


@pytest.mark.clause("TR-A3")
def test_bf16_is_seen_as_fp32(tmp_path: Path) -> None:
    """TR-A3: numpy has no such type; Triton's own raises."""
    half = TensorSpec("X", DataType.BF16, (-1, 2))
    config = ModelConfig(inputs=(half,), outputs=(msgspec.structs.replace(half, name="Y"),))
    bits = bf16_from_fp32(np.array([[1.5, -2.0]], "f4"))
    answer = load(write(tmp_path, DOUBLE), config).run({"X": bits})["Y"]
    assert answer.tolist() == bf16_from_fp32(np.array([[3.0, -4.0]], "f4")).tolist()


class TestTensor:
    """TR-A3: ``pb_utils.Tensor``."""

    def test_what_it_tells(self) -> None:
        tensor = pb_utils.Tensor("t", np.zeros((2, 3), "i2"))
        assert (tensor.name(), tensor.shape(), tensor.is_cpu(), tensor.triton_dtype()) == (
            "t",
            [2, 3],
            True,
            7,
        )
        assert tensor.as_numpy().dtype == np.int16
        assert pb_utils.Tensor("s", np.array(["a"], object)).triton_dtype() == 13

    def test_it_is_contiguous_and_keeps_its_shape(self) -> None:
        x = np.arange(6).reshape(2, 3).T
        assert pb_utils.Tensor("t", x).as_numpy().flags.c_contiguous
        assert pb_utils.Tensor("t", np.array(3.0)).shape() == []

    @pytest.mark.parametrize(
        ("name", "array", "error"),
        [
            ("", np.zeros(1), pb_utils.TritonModelException),
            ("t", [1, 2], TypeError),
            ("t", np.zeros(1, complex), pb_utils.TritonModelException),
        ],
    )
    def test_what_is_no_tensor(self, name: str, array: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            pb_utils.Tensor(name, array)

    def test_dlpack_shares_memory_both_ways(self) -> None:
        x = np.arange(6, dtype="f4").reshape(2, 3)
        tensor = pb_utils.Tensor.from_dlpack("t", x)
        assert np.shares_memory(tensor.as_numpy(), x)
        again = pb_utils.Tensor.from_dlpack("u", pb_utils.Tensor("t", x).to_dlpack())
        assert np.shares_memory(again.as_numpy(), x) and again.shape() == [2, 3]
        assert np.shares_memory(np.from_dlpack(pb_utils.Tensor("t", x)), x)
        assert pb_utils.Tensor("t", x).__dlpack_device__() == (1, 0)

    def test_dlpack_refuses_texts_and_nonsense(self) -> None:
        with pytest.raises(pb_utils.TritonModelException, match="string"):
            pb_utils.Tensor("s", np.array([b"a"], object)).to_dlpack()
        with pytest.raises(pb_utils.TritonModelException, match="DLPack"):
            pb_utils.Tensor.from_dlpack("t", object())


@pytest.mark.clause("TR-A3")
def test_only_tensors_and_errors_make_a_response() -> None:
    """TR-A3."""
    with pytest.raises(TypeError):
        pb_utils.InferenceResponse([np.zeros(1)])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        pb_utils.InferenceResponse(error="text")  # type: ignore[arg-type]
    tensor = pb_utils.Tensor("t", np.zeros(1))
    response = pb_utils.InferenceResponse(output_tensors=[tensor])
    assert pb_utils.get_output_tensor_by_name(response, "t") is tensor
    assert pb_utils.get_output_tensor_by_name(response, "u") is None
    assert not response.has_error() and response.error() is None


@pytest.mark.clause("TR-A3")
def test_type_names_and_numbers() -> None:
    """TR-A3."""
    assert pb_utils.triton_string_to_numpy("TYPE_FP16") is np.float16
    assert pb_utils.triton_string_to_numpy("TYPE_STRING") is np.object_
    with pytest.raises(KeyError):
        pb_utils.triton_string_to_numpy("TYPE_BF16")
    types = [np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64]
    types += [np.float16, np.float32, np.float64, np.object_]
    assert [pb_utils.numpy_to_triton_type(t) for t in types] == list(range(1, 14))
    assert [pb_utils.triton_to_numpy_type(n) for n in range(1, 14)] == types
    assert pb_utils.numpy_to_triton_type(np.dtype("f4")) == 11
    assert pb_utils.numpy_to_triton_type(np.bytes_) == 13
    assert pb_utils.numpy_to_triton_type(np.complex64) is None and pb_utils.triton_to_numpy_type(14) is None


@pytest.mark.clause("TR-A3")
def test_binary_form_of_texts() -> None:
    """TR-A3: lengths of four bytes, little-endian."""
    encoded = pb_utils.serialize_byte_tensor(np.array([[b"ab", "é"], [b"", 5]], object))
    assert encoded == b"\x02\0\0\0ab\x02\0\0\0\xc3\xa9\0\0\0\0\x01\0\0\x005"
    assert pb_utils.deserialize_bytes_tensor(encoded).tolist() == [b"ab", "é".encode(), b"", b"5"]


@pytest.mark.clause("TR-A3")
def test_the_logger_writes_lines_of_the_models_own(capsys: pytest.CaptureFixture[str]) -> None:
    """TR-A3: verbose ones only when asked, which is not done."""
    log = pb_utils.Logger
    log.log_info("one")
    log.log_warn("two")
    log.log_error("three")
    log.log_verbose("four")
    log.log("five", log.WARNING)
    assert capsys.readouterr().err.splitlines() == [
        "INFO: one",
        "WARNING: two",
        "ERROR: three",
        "WARNING: five",
    ]


@pytest.mark.clause("TR-A2", "TR-C11")
async def test_each_instance_is_told_its_own(tmp_path: Path) -> None:
    told = """class TritonPythonModel:
    def initialize(self, args):
        name = args["model_instance_kind"] + args["model_instance_device_id"]
        open(args["model_repository"] + "/" + name, "w").close()

"""
    path = write(tmp_path, told + DOUBLE.partition("\n")[2])
    config = msgspec.structs.replace(BATCHED, instances=Instances(gpus=(1, 0)))
    loader = Loader({"python": BACKEND}, Bus(), time.monotonic, Terms(1), Additions())
    servable = await loader.load(manifest_of(BACKEND, path, config))
    assert len(servable.processes) == 2
    await servable.close()
    assert sorted(file.name for file in path.parent.parent.glob("*PU*")) == ["GPU0", "GPU1"]


def test_a_plain_class_is_told_of_no_gpu(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("class Model:\n    pass\n")
    with pytest.raises(LoadFailed, match=r"plain Python class cannot use GPU 3.*TritonPythonModel"):
        BACKEND.load(manifest_of(BACKEND, path), LoadOptions(gpu=3))
