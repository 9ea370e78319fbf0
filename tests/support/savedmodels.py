"""Which SavedModels do tests serve, and where are they? TensorFlow makes them, once a machine, elsewhere.

``half_plus_two(folder)`` writes a version folder and gives it back, as do the others; the test's own process
imports no TensorFlow. Run as a program it writes all of them below a folder.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Environment of a server in which TensorFlow imports no Keras, as it does not in a host.
SOONER = {"TF_USE_LEGACY_KERAS": "1"}


@functools.cache
def made() -> Path:
    """The folder with all of them, by name."""
    source = Path(__file__).read_bytes() + sys.version.encode()
    root = Path(tempfile.gettempdir()) / f"salver-savedmodels-{os.getuid()}"
    whole = root / hashlib.sha256(source).hexdigest()[:16]
    if not whole.is_dir():
        root.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as work:
            new = Path(work) / "new"
            new.mkdir()
            done = subprocess.run([sys.executable, __file__, str(new)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            if not whole.is_dir():  # another worker may have been faster
                try:
                    new.rename(whole)
                except OSError:
                    assert whole.is_dir()
    return whole


def _copied(name: str, folder: Path) -> Path:
    shutil.copytree(made() / name, folder, dirs_exist_ok=True)
    return folder


def half_plus_two(folder: Path) -> Path:
    """TensorFlow Serving's own example: y = x / 2 + 2.

    ``serving_default`` (predict, x -> y); ``regress_x_to_y``, ``regress_x_to_y2`` (x / 2 + 3) and
    ``regress_x2_to_y3`` (x2 / 2 + 3), from serialized Examples to ``outputs``; ``classify_x_to_y``, to
    ``scores``, and ``classify_x_to_sign``, to ``classes`` and ``scores``. All tensors are of unknown rank.
    It is of TensorFlow 1.
    """
    return _copied("half_plus_two", folder)


def half_plus_three(folder: Path) -> Path:
    """The same with y = x / 2 + 3, and all tensors [-1,1] but the Examples, which are of unknown rank."""
    return _copied("half_plus_three", folder)


def with_assets(folder: Path) -> Path:
    """Words to numbers by a vocabulary in ``assets/words.txt`` (a, b, c), and back by ``names``.

    ``serving_default``: ``words`` strings [-1] -> ``ids`` int64 [-1] (-1 = unknown), ``upper_bytes`` strings.
    """
    return _copied("with_assets", folder)


def stateful(folder: Path) -> Path:
    """Counts: ``serving_default`` adds ``by`` (a scalar) and gives ``total``; ``look`` gives it as it is.

    ``add_rows`` takes ``rows`` [-1], and gives them, each with all before it and the total.
    """
    return _copied("stateful", folder)


def ragged(folder: Path) -> Path:
    """Splits ``text`` strings [-1] into words: ``values`` and ``splits``, flat, and ``count`` a row."""
    return _copied("ragged", folder)


def keras(folder: Path) -> Path:
    """A Keras network by ``model.export``: [-1,8] -> [-1,3]; ``serve`` and the default are alike."""
    return _copied("keras", folder)


def keras_pair(folder: Path) -> Path:
    """A Keras network of ``left`` [-1,2] and ``right`` [-1,3]; the outputs are ``sum`` and ``gap``."""
    return _copied("keras_pair", folder)


def datatypes(folder: Path) -> Path:
    """A signature for each datatype, ``same_<name>``: x [-1] -> y, the same; one is complex64."""
    return _copied("datatypes", folder)


def complex_only(folder: Path) -> Path:
    """Its one signature takes complex numbers."""
    return _copied("complex_only", folder)


def without_default(folder: Path) -> Path:
    """Two signatures, ``add`` and ``times``, of ``a`` and ``b`` [-1]; none is ``serving_default``."""
    return _copied("without_default", folder)


def moody(folder: Path) -> Path:
    """Refuses by an assertion, "x must not be negative", where an x [-1] is; else gives y = sqrt(x)."""
    return _copied("moody", folder)


def squares(folder: Path) -> Path:
    """Any rank: x, of unknown rank, -> y = x * x."""
    return _copied("squares", folder)


def tagged(folder: Path) -> Path:
    """Two meta graphs: ``serve`` (x -> x + 1) and ``serve,gpu`` (x -> x + 2). TensorFlow 1."""
    return _copied("tagged", folder)


def with_defaults(folder: Path) -> Path:
    """y = x * by + plus, where ``by`` is 2 and ``plus`` [0.5] for those who leave them out."""
    return _copied("with_defaults", folder)


def batching_inside(folder: Path) -> Path:
    """x [-1,2] -> y = 2 x, and size, the rows of the batch that the graph itself makes, of 4 or 8 rows."""
    return _copied("batching_inside", folder)


def flowers(folder: Path) -> Path:
    """KServe's example, a picture's kind: ``image_bytes``, ``key`` -> ``scores``, ``prediction``, ``key``.

    The scores are the mean red, green and blue.
    """
    return _copied("flowers", folder)


def in_the_server(*models: Path) -> None:
    """Have models run on threads of the server, which imports TensorFlow once for all of them."""
    for model in models:
        (model / "salver.toml").write_text('[instances]\nrunner = "thread"\n')


# What follows runs in a process of its own.


def _half_plus(tf: Any, folder: str, summand: float, *, has_rank: bool) -> None:
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        a, b, c = (v1.Variable(value, name=name) for value, name in ((0.5, "a"), (summand, "b"), (3.0, "c")))
        serialized = v1.placeholder(tf.string, name="tf_example")
        features = {
            "x": tf.io.FixedLenFeature([1], tf.float32),
            "x2": tf.io.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        }
        parsed = v1.parse_example(serialized, features)
        for tensor in parsed.values() if has_rank else ():
            tensor.set_shape([None, 1])
        x, x2 = tf.identity(parsed["x"], name="x"), tf.identity(parsed["x2"], name="x2")
        y, y2 = tf.add(a * x, b, name="y"), tf.add(a * x, c, name="y2")
        y3 = tf.add(a * x2, c, name="y3")
        sign = tf.where(x < 0, tf.constant([["minus", "plus"]]), tf.constant([["plus", "minus"]]))
        scores = tf.concat([tf.abs(x), -tf.abs(x)], 1)
        info, define = v1.saved_model.build_tensor_info, v1.saved_model.build_signature_def
        examples = {"inputs": info(serialized)}
        regress, classify = "tensorflow/serving/regress", "tensorflow/serving/classify"
        signatures = {
            "serving_default": define({"x": info(x)}, {"y": info(y)}, "tensorflow/serving/predict"),
            "regress_x_to_y": define(examples, {"outputs": info(y)}, regress),
            "regress_x_to_y2": define(examples, {"outputs": info(y2)}, regress),
            "regress_x2_to_y3": define(examples, {"outputs": info(y3)}, regress),
            "classify_x_to_y": define(examples, {"scores": info(y)}, classify),
            "classify_x_to_sign": define(examples, {"classes": info(sign), "scores": info(scores)}, classify),
        }
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(folder)
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


def _half_plus_two(tf: Any, folder: str) -> None:
    _half_plus(tf, folder, 2.0, has_rank=False)


def _half_plus_three(tf: Any, folder: str) -> None:
    _half_plus(tf, folder, 3.0, has_rank=True)


def _with_assets(tf: Any, folder: str) -> None:
    words = Path(folder).parent / "words.txt"
    words.write_text("a\nb\nc\n")

    class Module(tf.Module):
        def __init__(self) -> None:
            key, value = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
            self.file = tf.saved_model.Asset(str(words))
            rule = tf.lookup.TextFileInitializer(self.file, tf.string, key, tf.int64, value)
            self.ids = tf.lookup.StaticHashTable(rule, -1)
            rule = tf.lookup.TextFileInitializer(self.file, tf.int64, value, tf.string, key)
            self.names = tf.lookup.StaticHashTable(rule, "?")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "words")])
        def find(self, words: Any) -> Any:
            return {"ids": self.ids.lookup(words), "upper_bytes": tf.strings.upper(words)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "ids")])
        def name(self, ids: Any) -> Any:
            return {"words": self.names.lookup(ids)}

    module = Module()
    tf.saved_model.save(module, folder, {"serving_default": module.find, "names": module.name})
    words.unlink()


def _stateful(tf: Any, folder: str) -> None:
    class Module(tf.Module):
        def __init__(self) -> None:
            self.total = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "by")])
        def add(self, by: Any) -> Any:
            return {"total": self.total.assign_add(by)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "rows")])
        def add_rows(self, rows: Any) -> Any:
            before = self.total.read_value()
            with tf.control_dependencies([self.total.assign_add(tf.reduce_sum(rows))]):
                return {"totals": before + tf.cumsum(rows)}

        @tf.function(input_signature=[])
        def look(self) -> Any:
            return {"total": self.total.read_value()}

    module = Module()
    tf.saved_model.save(
        module, folder, {"serving_default": module.add, "add_rows": module.add_rows, "look": module.look}
    )


def _ragged(tf: Any, folder: str) -> None:
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def split(self, text: Any) -> Any:
            words = tf.strings.split(text)
            return {"values": words.flat_values, "splits": words.row_splits, "count": words.row_lengths()}

    module = Module()
    tf.saved_model.save(module, folder, {"serving_default": module.split})


def _keras(tf: Any, folder: str) -> None:
    tf.keras.utils.set_random_seed(7)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [tf.keras.Input((8,), name="features"), layers.Dense(16, "relu"), layers.Dense(3, "softmax")]
    )
    model.export(folder, verbose=False)


def _keras_pair(tf: Any, folder: str) -> None:
    tf.keras.utils.set_random_seed(8)
    left, right = tf.keras.Input((2,), name="left"), tf.keras.Input((3,), name="right")
    one, other = tf.keras.layers.Dense(1)(left), tf.keras.layers.Dense(1)(right)
    outputs = {"sum": one + other, "gap": one - other}
    tf.keras.Model({"left": left, "right": right}, outputs).export(folder, verbose=False)


_SAME = (
    "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string complex64"
)


def _same(tf: Any, names: list[str], folder: str) -> None:
    module = tf.Module()
    signatures = {}
    for name in names:
        spec = tf.TensorSpec([None], tf.as_dtype(name), "x")
        function = tf.function(lambda x: {"y": tf.identity(x)}, input_signature=[spec])
        setattr(module, f"same_{name}", function)
        signatures[f"same_{name}"] = function
    tf.saved_model.save(module, folder, signatures)


def _datatypes(tf: Any, folder: str) -> None:
    _same(tf, _SAME.split(), folder)


def _complex_only(tf: Any, folder: str) -> None:
    _same(tf, ["complex64"], folder)


def _without_default(tf: Any, folder: str) -> None:
    spec = [tf.TensorSpec([None], tf.float32, name) for name in "ab"]
    module = tf.Module()
    module.add = tf.function(lambda a, b: {"out": a + b}, input_signature=spec)
    module.times = tf.function(lambda a, b: {"out": a * b}, input_signature=spec)
    tf.saved_model.save(module, folder, {"times": module.times, "add": module.add})


def _moody(tf: Any, folder: str) -> None:
    def root(x: Any) -> Any:
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.reduce_all(x >= 0), ["x must not be negative"])]
        ):
            return {"y": tf.sqrt(x)}

    module = tf.Module()
    module.root = tf.function(root, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, folder, {"serving_default": module.root})


def _squares(tf: Any, folder: str) -> None:
    module = tf.Module()
    module.square = tf.function(
        lambda x: {"y": x * x}, input_signature=[tf.TensorSpec(None, tf.float32, "x")]
    )
    tf.saved_model.save(module, folder, {"serving_default": module.square})


def _tagged(tf: Any, folder: str) -> None:
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(folder)
    for tags, summand in ((["serve"], 1.0), (["serve", "gpu"], 2.0)):
        with v1.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None], "x")
            y = tf.add(x, v1.Variable(np.float32(1)) * summand, "y")
            info = v1.saved_model.build_tensor_info
            signature = v1.saved_model.build_signature_def(
                {"x": info(x)}, {"y": info(y)}, "tensorflow/serving/predict"
            )
            session.run(v1.global_variables_initializer())
            if len(tags) == 1:
                builder.add_meta_graph_and_variables(session, tags, {"serving_default": signature})
            else:
                builder.add_meta_graph(tags, {"serving_default": signature})
    builder.save()


def _with_defaults(tf: Any, folder: str) -> None:
    module = tf.Module()
    two, half = tf.constant(2.0), tf.constant([0.5])

    def line(x: Any, by: Any = two, plus: Any = half) -> Any:
        return {"y": x * by + plus}

    names: list[tuple[str, list[None]]] = [("x", [None]), ("by", []), ("plus", [None])]
    module.line = tf.function(line, input_signature=[tf.TensorSpec(s, tf.float32, n) for n, s in names])
    tf.saved_model.save(module, folder, {"serving_default": module.line})


def _batching_inside(tf: Any, folder: str) -> None:
    batched = tf.nondifferentiable_batch_function(
        num_batch_threads=1, max_batch_size=8, batch_timeout_micros=2000, allowed_batch_sizes=[4, 8]
    )

    @batched
    def double(x: Any) -> Any:
        return 2 * x, tf.zeros_like(x[:, 0]) + tf.cast(tf.shape(x)[0], tf.float32)

    def run(x: Any) -> Any:
        y, size = double(x)
        return {"y": y, "size": size}

    module = tf.Module()
    module.run = tf.function(run, input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    tf.saved_model.save(module, folder, {"serving_default": module.run})


def _flowers(tf: Any, folder: str) -> None:
    def colours(picture: Any) -> Any:
        return tf.reduce_mean(tf.cast(tf.io.decode_jpeg(picture, 3), tf.float32), (0, 1))

    def run(image_bytes: Any, key: Any) -> Any:
        scores = tf.map_fn(colours, image_bytes, tf.float32)
        return {"scores": scores, "prediction": tf.argmax(scores, 1), "key": tf.identity(key)}

    inputs = [tf.TensorSpec([None], tf.string, name) for name in ("image_bytes", "key")]
    module = tf.Module()
    module.run = tf.function(run, input_signature=inputs)
    tf.saved_model.save(module, folder, {"serving_default": module.run})


_MAKERS: dict[str, Callable[[Any, str], None]] = {
    "half_plus_two": _half_plus_two,
    "half_plus_three": _half_plus_three,
    "with_assets": _with_assets,
    "stateful": _stateful,
    "ragged": _ragged,
    "keras": _keras,
    "keras_pair": _keras_pair,
    "datatypes": _datatypes,
    "complex_only": _complex_only,
    "without_default": _without_default,
    "moody": _moody,
    "squares": _squares,
    "tagged": _tagged,
    "with_defaults": _with_defaults,
    "batching_inside": _batching_inside,
    "flowers": _flowers,
}

if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf

    for name, make in _MAKERS.items():
        make(tf, str(Path(sys.argv[1]) / name))
