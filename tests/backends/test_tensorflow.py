"""SavedModels of both TensorFlows: every signature, answering as TensorFlow itself does, bit by bit."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import savedmodels
from packaged import load, packaged

from salver.backends.protocol import SIGNATURE
from salver.backends.tensorflow import TensorFlowBackend, TensorFlowModel
from salver.words.artifacts import ModelConfig
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

RANDOM = np.random.default_rng(4)
CODE = [
    b"import sys\n\ndef main():\n    print(sys.argv)\n",
    b"#include <stdio.h>\nint main(void) { return 0; }\n",
    b"SELECT name FROM people WHERE age > 30;",
    "caf\xe9 \xff".encode("latin-1"),
]


def example(**features: float) -> bytes:
    from tensorflow.core.example.example_pb2 import Example

    made = Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return bytes(made.SerializeToString())


def strings(*values: bytes) -> Array:
    return np.array(values, dtype=object)


#: What each model is asked, by signature.
QUESTIONS: dict[str, dict[str, dict[str, Array]]] = {
    "half_plus_two": {
        "serving_default": {"x": np.array([1, 2, 5], "f4")},
        "regress_x_to_y": {"inputs": strings(example(x=1), example(x=-7.25))},
        "regress_x_to_y2": {"inputs": strings(example(x=3))},
        "regress_x2_to_y3": {"inputs": strings(example(x=3, x2=8), example(x=1))},
        "classify_x_to_y": {"inputs": strings(example(x=0.1))},
        "classify_x_to_sign": {"inputs": strings(example(x=-2), example(x=3), example(x=0))},
    },
    "half_plus_three": {
        "serving_default": {"x": RANDOM.normal(size=(9, 1)).astype("f4")},
        "classify_x_to_sign": {"inputs": strings(example(x=-2))},
    },
    "with_assets": {
        "serving_default": {"words": strings(b"c", b"nobody", b"a", b"")},
        "names": {"ids": np.array([2, 0, 17])},
    },
    "ragged": {"serving_default": {"text": strings(b"one", b"", b"two three  four")}},
    "keras": {
        "serving_default": {"features": RANDOM.normal(size=(5, 8)).astype("f4")},
        "serve": {"features": RANDOM.normal(size=(64, 8)).astype("f4")},
    },
    "keras_pair": {
        "serving_default": {
            "left": RANDOM.normal(size=(4, 2)).astype("f4"),
            "right": RANDOM.normal(size=(4, 3)).astype("f4"),
        }
    },
    "without_default": {
        "add": {"a": np.array([1, 2], "f4"), "b": np.array([3, 4], "f4")},
        "times": {"a": np.array([1, 2], "f4"), "b": np.array([3, 4], "f4")},
    },
    "moody": {"serving_default": {"x": np.array([0, 2, 1e-30], "f4")}},
    "squares": {"serving_default": {"x": RANDOM.normal(size=(2, 3, 1, 2)).astype("f4")}},
    "guesslang": {
        "serving_default": {"inputs": strings(*CODE)},
        "classification": {"inputs": strings(CODE[0])},
        "predict": {"content": strings(*CODE)},
    },
    "basic_pitch": {"serving_default": {"input_2": RANDOM.normal(size=(2, 43844, 1)).astype("f4")}},
    "datatypes": {
        f"same_{kind.dtype}": {"x": np.array([0, 1, 1], kind.dtype)}
        for kind in DataType
        if kind not in (DataType.BYTES, DataType.BF16)
    },
}


def path_of(name: str) -> Path:
    if name == "guesslang":
        return packaged("guesslang", "model/saved_model.pb").parent
    if name == "basic_pitch":
        return packaged("basic-pitch", "icassp_2022/nmp/saved_model.pb").parent
    return savedmodels.made() / name


def ask(model: TensorFlowModel, key: str, inputs: dict[str, Array]) -> dict[str, Array]:
    keys = [other.name for other in model.signature.others]
    mark = {} if key == model.signature.name else {SIGNATURE: np.array(keys.index(key))}
    return dict(model.run({**inputs, **mark}))


def reference(name: str, key: str, inputs: dict[str, Array]) -> dict[str, Array]:
    """What TensorFlow's own functions answer."""
    import tensorflow as tf

    path = str(path_of(name))
    if name == "basic_pitch":  # its Keras optimizer is too old for tf.saved_model.load
        return by_session(path, key, inputs)
    function = tf.saved_model.load(path).signatures[key]
    answer = function(**{name: tf.constant(array) for name, array in inputs.items()})
    return {name: np.asarray(value.numpy()) for name, value in answer.items()}


def by_session(path: str, key: str, inputs: dict[str, Array]) -> dict[str, Array]:
    import tensorflow as tf

    v1 = tf.compat.v1
    threads = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    with v1.Graph().as_default(), v1.Session(config=threads) as session:
        signature = v1.saved_model.load(session, ["serve"], path).signature_def[key]
        outputs = {name: info.name for name, info in signature.outputs.items()}
        feed = {signature.inputs[name].name: array for name, array in inputs.items()}
        return dict(session.run(outputs, feed))


@pytest.fixture(scope="module", params=QUESTIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Iterator[TensorFlowModel]:
    loaded = load(TensorFlowBackend(), path_of(name))
    assert isinstance(loaded, TensorFlowModel)
    yield loaded
    loaded.close()


@pytest.mark.clause("TF-O5")
def test_every_signature_answers_as_tensorflow_does(name: str, model: TensorFlowModel) -> None:
    for key, inputs in QUESTIONS[name].items():
        expected = reference(name, key, inputs)
        got = ask(model, key, inputs)
        assert got.keys() == expected.keys(), key
        for output, array in expected.items():
            assert got[output].shape == array.shape, (key, output)
            assert got[output].tolist() == array.tolist(), (key, output)
            assert array.dtype == object or got[output].tobytes() == array.tobytes(), (key, output)


def test_signatures_are_those_of_the_artefact(name: str, model: TensorFlowModel) -> None:
    asked = QUESTIONS[name]
    known = {s.name: s for s in (model.signature, *model.signature.others)}
    assert asked.keys() <= known.keys()
    for key, inputs in asked.items():
        specs = {spec.name: spec for spec in known[key].inputs}
        assert specs.keys() == inputs.keys()
        for spec in (*known[key].inputs, *known[key].outputs):
            assert spec.tensor.endswith(tuple(f":{n}" for n in range(10)))
            assert not spec.any_rank or spec.shape == (-1,)
        for kind, array in inputs.items():
            assert specs[kind].datatype.dtype == array.dtype


class TestWhichIsFirst:
    def signature(self, name: str, **options: str) -> Signature:
        model = load(TensorFlowBackend(), path_of(name), ModelConfig(options=options))
        model.close()
        return model.signature

    def test_serving_default_is(self) -> None:
        found = self.signature("half_plus_two")
        assert found.name == "serving_default"
        assert [s.name for s in found.others] == sorted(QUESTIONS["half_plus_two"])[:-1]

    def test_without_one_it_is_the_first_by_name(self) -> None:
        assert self.signature("without_default").name == "add"

    def test_the_owner_may_say_otherwise(self) -> None:
        found = self.signature("guesslang", signature="predict")
        assert (found.name, found.inputs[0].name) == ("predict", "content")
        assert {s.name for s in found.others} == {"classification", "serving_default"}

    def test_the_methods_are_kept(self) -> None:
        found = self.signature("half_plus_three")
        methods = {s.name: s.method.removeprefix("tensorflow/serving/") for s in (found, *found.others)}
        assert methods["serving_default"] == "predict"
        assert methods["regress_x_to_y"] == "regress"
        assert methods["classify_x_to_y"] == "classify"

    def test_one_that_no_datatype_holds_is_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        found = self.signature("datatypes")
        assert found.named("same_complex64") is None and found.named("same_bool") is not None
        assert "signature 'same_complex64' is not served: tensor 'x' is a complex64" in caplog.text

    @pytest.mark.parametrize(
        ("name", "options"), [("complex_only", {}), ("datatypes", {"signature": "same_complex64"})]
    )
    def test_unless_it_is_the_only_one_or_the_wanted(self, name: str, options: dict[str, str]) -> None:
        with pytest.raises(LoadFailed, match="no signature that can be served: 'same_complex64'"):
            self.signature(name, **options)


class TestRows:
    """Axis 0 is a batch where it is said to be one, and behaves as one."""

    def signature(self, name: str, config: ModelConfig | None = None) -> Signature:
        model = load(TensorFlowBackend(), path_of(name), config)
        model.close()
        return model.signature

    def test_examples_have_rows_whatever_their_rank(self) -> None:
        found = self.signature("half_plus_two")
        assert not found.batched and all(other.batched for other in found.others)

    def test_outputs_of_another_length_make_it_none(self) -> None:
        assert not self.signature("ragged").batched

    def test_a_rank_that_the_owner_says_does(self) -> None:
        said = [(TensorSpec(name, DataType.FP32, (-1, 4)),) for name in "xy"]
        found = self.signature("squares", ModelConfig(inputs=said[0], outputs=said[1]))
        assert found.batched and found.inputs[0].shape == (-1, 4)
        assert not found.inputs[0].any_rank and found.inputs[0].tensor == "serving_default_x:0"


def test_a_counter_counts_and_is_known_to() -> None:
    model = load(TensorFlowBackend(), path_of("stateful"))
    rows, looks = model.signature.others
    assert (rows.name, looks.name) == ("add_rows", "look")
    assert model.signature.is_stateful and rows.is_stateful and not looks.is_stateful
    assert not rows.batched, "a batch may be run again in parts"
    look = {SIGNATURE: np.array(1)}
    assert model.run(look)["total"] == 0  # its load has not counted
    assert [float(model.run({"by": np.float32(by)})["total"]) for by in (2, 0.5)] == [2, 2.5]
    totals = model.run({"rows": np.array([1, -1], "f4"), SIGNATURE: np.array(0)})["totals"]
    assert totals.tolist() == [3.5, 2.5]
    assert model.run(look)["total"].shape == () and model.run(look)["total"] == 2.5
    model.close()


@pytest.mark.parametrize("name", ["with_assets", "guesslang", "basic_pitch", "keras", "half_plus_two"])
def test_tables_that_are_filled_at_the_load_are_no_state(name: str) -> None:
    model = load(TensorFlowBackend(), path_of(name))
    model.close()
    assert not any(s.is_stateful for s in (model.signature, *model.signature.others))


class TestErrors:
    """TensorFlow's own words, as its clients get them."""

    def test_what_the_graph_refuses_is_the_callers_mistake(self) -> None:
        model = load(TensorFlowBackend(), path_of("moody"))
        with pytest.raises(InvalidInput, match=r"^assertion failed: \[x must not be negative\]$"):
            model.run({"x": np.array([1, -1], "f4")})
        model.close()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"nonsense", "Could not parse example input, value: 'nonsense'"),
            (b"", "Name: <unknown>, Feature: x (data type: float) is required but could not be found."),
        ],
    )
    def test_no_example(self, content: bytes, said: str) -> None:
        model = load(TensorFlowBackend(), path_of("half_plus_two"))
        assert isinstance(model, TensorFlowModel)
        with pytest.raises(InvalidInput) as refused:
            ask(model, "regress_x_to_y", {"inputs": strings(content)})
        model.close()
        assert str(refused.value) == said

    def test_shapes_are_the_graphs_to_judge(self) -> None:
        model = load(TensorFlowBackend(), path_of("keras"))
        with pytest.raises(
            InvalidInput, match=r"Matrix size-incompatible: In\[0\]: \[2,7\], In\[1\]: \[8,16\]"
        ):
            model.run({"features": np.zeros((2, 7), "f4")})
        model.close()


class TestOptions:
    def load(self, name: str, **options: str) -> Any:
        return load(TensorFlowBackend(), path_of(name), ModelConfig(options=options))

    @pytest.mark.clause("TF-F16")
    def test_tags_choose_the_graph(self) -> None:
        for tags, expected in (("serve", 2.0), ("serve,gpu", 3.0), ("gpu, serve", 3.0)):
            model = self.load("tagged", tags=tags)
            assert model.run({"x": np.array([1], "f4")})["y"].tolist() == [expected]
            model.close()

    def test_tags_that_no_graph_has(self) -> None:
        with pytest.raises(LoadFailed, match=r"could not be loaded as savedmodel.*tag"):
            self.load("tagged", tags="train")

    @pytest.mark.clause("TF-F14")
    def test_threads_inside_and_beside_operations(self) -> None:
        model = self.load("keras", intra_op_threads="2", inter_op_threads="3")
        config = model.session._config
        assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (2, 3)
        model.close()

    @pytest.mark.parametrize("value", ["0", "-1", "two", "1e9", "1025"])
    def test_no_number_of_threads(self, value: str) -> None:
        with pytest.raises(LoadFailed, match=f"option intra_op_threads = {value!r} is not a number"):
            self.load("keras", intra_op_threads=value)


def with_unknown_operation(folder: Path) -> Path:
    """A SavedModel of which one operation is of a library."""
    shutil.copytree(path_of("without_default"), folder / "m")
    proto = folder / "m" / "saved_model.pb"
    content = proto.read_bytes()
    assert b"\x12\x05AddV2" in content
    proto.write_bytes(content.replace(b"\x12\x05AddV2", b"\x12\x05Txt>A"))
    return folder / "m"


def test_an_operation_of_a_library_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"needs the operation Txt>A, .*tensorflow-text"):
        load(TensorFlowBackend(), with_unknown_operation(tmp_path))


def test_libraries_of_operations_are_imported_where_a_graph_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow_text.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorflow_text", raising=False)
    with pytest.raises(LoadFailed, match="needs the operation Txt>A"):
        load(TensorFlowBackend(), with_unknown_operation(tmp_path))
    assert sys.modules.pop("tensorflow_text").__file__ == str(tmp_path / "tensorflow_text.py")
