"""Backends that host processes load in tests, by ``host_backends:NAME``."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from queue import SimpleQueue

import numpy as np

from salver.backends.callbacks import ModelCommand, Series, ServerAccess
from salver.backends.protocol import LoadOptions, Traits
from salver.kernel.engine.callback_messages import MOST_CALLS, ModelCall
from salver.kernel.engine.shm import Block
from salver.words.artifacts import LoadOrder, Manifest
from salver.words.errors import Cancelled, InvalidInput, LoadFailed, MissingExtra, NotFound, Overloaded
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

_X = TensorSpec("x", DataType.FP32, (-1, 2))
WASTE, WASTE_PIECE = 96 << 20, 64 << 10  # bytes; larger pieces would be mapped by themselves


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


_MOST_FDS = 4096  # of a process whose parent has many open


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
    print("I0000 00:00:1.2   3 port.cc:153] oneDNN custom operations are on. You may see", file=sys.stderr)
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
    os.closerange(3, _MOST_FDS)
    time.sleep(60)
    return {}


def _forge(x: Array) -> Mapping[str, Array]:
    for fd in range(3, _MOST_FDS):  # the control channel is one of them
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


class Wasteful(_Backend):
    """Frees nearly all that its load has taken, but not what lies at the end of the heap."""

    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        library = ctypes.CDLL(None)
        library.malloc.restype = ctypes.c_void_p
        pieces = [library.malloc(WASTE_PIECE) for _ in range(WASTE // WASTE_PIECE)]
        for piece in pieces:
            ctypes.memset(piece, 1, WASTE_PIECE)
        for piece in pieces[:-1]:
            library.free(ctypes.c_void_p(piece))
        return Model(manifest)


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


class Asking(_Backend):
    """A model that asks the server; what, ``x[0, 0]`` says (:data:`ASKS`)."""

    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        assert options.around is not None
        return _AskingModel(options.around)


class LoadsItself(_Backend):
    """A model that asks to be loaded while it is."""

    def load(self, manifest: Manifest, options: LoadOptions) -> object:
        assert options.around is not None
        options.around.manage(ModelCommand("load", manifest.id.name))
        return Model(manifest)


class _AskingModel(_EchoModel):
    def __init__(self, around: ServerAccess) -> None:
        self.around = around
        self.is_well = True

    def is_ready(self) -> bool:
        if not self.is_well:
            time.sleep(60)
        return self.is_well

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if (code := int(inputs["x"].flat[0]) if inputs["x"].dtype == np.float32 else 0) < 0:
            return {"x": np.array([[ASKS[-code](self), 0]], "f4")}
        said = ask_now(self.around, dict(inputs))
        return {tensor.name: tensor.array for tensor in said.outputs}


def ask_now(around: ServerAccess, arrays: Mapping[str, Array], model: str = "other") -> InferResponse:
    answers: SimpleQueue[InferResponse | None] = SimpleQueue()
    tensors = tuple(tensor(name, array) for name, array in arrays.items())
    request = InferRequest(model, tensors, "3", "mark", (RequestedOutput("y"),), {"k": 1}, "a trace")
    around.infer(request, False, lambda said, _: answers.put(said))
    said = answers.get()
    assert said is not None
    if said.error is not None:
        raise said.error
    return said


def _ask_at_once(model: _AskingModel) -> float:
    """A hundred requests at once; how many came back with what they had brought."""
    answers: SimpleQueue[tuple[int, InferResponse | None]] = SimpleQueue()
    for number in range(100):
        request = InferRequest("other", (tensor("n", np.full((300,), number, "f4")),))
        model.around.infer(request, False, lambda said, _, n=number: answers.put((n, said)))  # type: ignore[misc]
    found = [answers.get() for _ in range(100)]
    return sum(said is not None and bool((said.outputs[0].array == n).all()) for n, said in found)


def _ask_on_threads(model: _AskingModel) -> float:
    good = []

    def work(number: int) -> None:
        for turn in range(10):
            array = np.full((number + 1, 1000), turn, "i8")
            good.append(bool((ask_now(model.around, {"n": array}).outputs[0].array == array).all()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(good)


def _ask_for_pieces(model: _AskingModel) -> float:
    """Waits, takes all, and says how many there were."""
    pieces: SimpleQueue[tuple[InferResponse | None, bool]] = SimpleQueue()
    request = InferRequest("stream", (tensor("n", np.zeros(1)),))
    asked = model.around.infer(request, True, lambda *said: pieces.put(said))
    ask_now(model.around, {"n": np.zeros(1)}, "wait")
    count = 0
    while not pieces.get()[1]:
        count += 1
        asked.more()
    return count


def _ask_and_give_up(model: _AskingModel) -> float:
    answers: SimpleQueue[InferResponse | None] = SimpleQueue()
    asked = model.around.infer(InferRequest("never", ()), False, lambda said, _: answers.put(said))
    ask_now(model.around, {"n": np.zeros(1)}, "wait")
    asked.give_up()
    said = answers.get()
    return float(said is not None and isinstance(said.error, Cancelled))


def _ask_forever(model: _AskingModel) -> float:
    for number in range(5):
        inputs = (tensor("n", np.zeros(number, "f4")),)
        model.around.infer(InferRequest("never", inputs), False, lambda *_: None)
    ask_now(model.around, {"n": np.zeros(1)}, "never")
    return 0


def _ask_too_often(model: _AskingModel) -> float:
    refused: SimpleQueue[InferResponse | None] = SimpleQueue()
    for _ in range(MOST_CALLS + 1):
        model.around.infer(InferRequest("never", ()), False, lambda said, _: refused.put(said))
    said = refused.get()
    return float(said is not None and isinstance(said.error, Overloaded))


def _ask_for_numbers(model: _AskingModel) -> float:
    meters = model.around.meters
    handle = meters.open(Series("n", "about", "counter", {"a": "b"}))
    for _ in range(3):
        meters.change(handle, "add", 2)
    model.around.log(30, "a warning of its own")
    return meters.value(handle)


def _ask_to_manage(model: _AskingModel) -> float:
    order = LoadOrder("{}", {"1/model.py": b"x" * 3_000_000, "1/empty": b""})
    model.around.manage(ModelCommand("load", "other", order=order))
    return float(model.around.manage(ModelCommand("is_ready", "other", "2")))


def _ask_for_refusal(model: _AskingModel) -> float:
    try:
        model.around.manage(ModelCommand("unload", "refused", dependents=True))
    except NotFound as error:
        return float(str(error) == "no such model")
    return -1


def _fall_ill(model: _AskingModel) -> float:
    model.is_well = False
    return 1


def _forge_aside(model: _AskingModel) -> float:
    model.around._sock.sendall(b"\xff\xff\xff\xff nonsense")  # type: ignore[attr-defined]
    time.sleep(60)
    return 0


def _lie_aside(model: _AskingModel) -> float:
    """Says that tensors lie where there are none."""
    block = Block("n", "<f4", (1 << 40,), 1 << 20, 4 << 40)
    model.around.tell(ModelCall(99, "other", "", "", (), {}, (block,), ("FP32",), False, True, ""))  # type: ignore[attr-defined]
    time.sleep(60)
    return 0


_ALL_ASKS = (
    _ask_at_once, _ask_on_threads, _ask_for_pieces, _ask_and_give_up, _ask_forever, _ask_too_often,
    _ask_for_numbers, _ask_to_manage, _ask_for_refusal, _fall_ill, _forge_aside, _lie_aside,
)  # fmt: skip
ASKS = dict(enumerate(_ALL_ASKS, start=1))
ASK_CODES = {function.__name__.strip("_"): -float(code) for code, function in ASKS.items()}
