"""Backends that host processes load in tests, by ``host_backends:NAME``."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import numpy as np

from salver.artifacts import Manifest
from salver.backends.protocol import LoadOptions, Traits
from salver.errors import InvalidInput, LoadFailed, MissingExtra
from salver.messages import Signature, TensorSpec
from salver.tensor import Array, DataType

_X = TensorSpec("x", DataType.FP32, (-1, 2))


class Model:
    """Doubles ``x``, unless ``x[0, 0]`` is a negative code for some mischief."""

    signature = Signature((_X,), (TensorSpec("y", DataType.FP32, (-1, 2)),), batched=True, platform="test")

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.kept: list[Array] = []

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        x = inputs["x"]
        code = int(x[0, 0]) if x.size and x[0, 0] < 0 else 0
        if code:
            return MISCHIEF[-code](x)
        return {"y": x * 2}

    def close(self) -> None:
        print("closed politely")


def _raise(x: Array) -> Mapping[str, Array]:
    raise ValueError("no such row")


def _refuse(x: Array) -> Mapping[str, Array]:
    raise InvalidInput("text is empty", field="inputs[0]", fix="Send some.")


def _kill(x: Array) -> Mapping[str, Array]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def _segfault(x: Array) -> Mapping[str, Array]:
    ctypes.string_at(0)
    return {}


def _hard_exit(x: Array) -> Mapping[str, Array]:
    os._exit(3)


def _soft_exit(x: Array) -> Mapping[str, Array]:
    sys.exit(3)


def _hang(x: Array) -> Mapping[str, Array]:
    time.sleep(60)
    return {}


def _eat_memory(x: Array) -> Mapping[str, Array]:
    return {"y": np.ones((1 << 33, 2), "f4")}


def _chatter(x: Array) -> Mapping[str, Array]:
    print("a line of the model")
    sys.stderr.write("another\xff, not UTF-8 \udcff\n")
    os.write(1, b"\x00\x01\x02\xff raw bytes\n")
    return {"y": x}


def _complex(x: Array) -> Mapping[str, Array]:
    return {"y": x.astype(complex)}


def _write_input(x: Array) -> Mapping[str, Array]:
    x[0, 0] = 1
    return {"y": x}


def _nephew(x: Array) -> Mapping[str, Array]:
    child = subprocess.Popen(["sleep", "60"])
    return {"y": np.array([[child.pid, os.getpid()]], "f4")}


def _environment(x: Array) -> Mapping[str, Array]:
    return {"y": np.array([[float(os.environ["OMP_NUM_THREADS"]), 0]], "f4")}


def _close_control(x: Array) -> Mapping[str, Array]:
    os.closerange(3, 64)
    time.sleep(60)
    return {}


def _forge(x: Array) -> Mapping[str, Array]:
    for fd in range(3, 64):  # the control channel is one of them
        try:
            os.write(fd, b"\xff\xff\xff\xff nonsense")
        except OSError:
            continue
    time.sleep(60)
    return {}


def _echo_later(x: Array) -> Mapping[str, Array]:
    time.sleep(0.2)
    return {"y": x}


_ALL = (
    _raise, _refuse, _kill, _segfault, _hard_exit, _soft_exit, _hang, _eat_memory, _chatter,
    _complex, _write_input, _nephew, _environment, _close_control, _forge, _echo_later,
)  # fmt: skip
#: Code -> what it does, and the value of ``x[0, 0]`` that asks for it.
MISCHIEF = dict(enumerate(_ALL, start=1))
CODES = {function.__name__.strip("_"): -float(code) for code, function in MISCHIEF.items()}


class _Backend:
    name = "test"
    extra = ""
    modules = ()
    traits = Traits(isolate=True)

    def recognise(self, path: object) -> str | None:
        return None

    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        return Model(manifest)


class Good(_Backend):
    pass


INSTANCE = Good()


class Echo(_Backend):
    """Gives back what it gets, of any datatype."""

    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        return _EchoModel()


class _EchoModel:
    signature = Signature((_X,), (_X,))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return inputs

    def close(self) -> None:
        pass


class ManifestTeller(_Backend):
    """A model whose platform names what its host was told."""

    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        model = Model(manifest)
        model.signature = Signature(
            (_X,), (_X,), platform=f"{manifest.path!r} {manifest.config.options} {options.threads}"
        )
        return model


class Raises(_Backend):
    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        raise RuntimeError("weights are missing")


class Refuses(_Backend):
    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        raise LoadFailed("option 'x' is unknown", field="options.x", fix="Remove it.")


class Misses(_Backend):
    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        raise MissingExtra("onnx", "onnx", "onnxruntime")


class Crashes(_Backend):
    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        print("reading weights", file=sys.stderr)
        os.write(2, b"assertion failed: shape.ok()")
        os.abort()


class NeverLoads(_Backend):
    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        time.sleep(60)
        return None


class EatsMemoryAtLoad(_Backend):
    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        return np.ones(1 << 40)


class LoadsOnce(_Backend):
    """Fails to load while the file in ``options.flag`` exists; the first host makes it."""

    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        flag = manifest.path
        if flag.exists():
            raise LoadFailed("not again")
        return Model(manifest)


class ClosesBadly(_Backend):
    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        model = Model(manifest)
        model.close = lambda: time.sleep(60)  # type: ignore[method-assign]
        return model
