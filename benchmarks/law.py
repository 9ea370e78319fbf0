"""Models whose time is known: a run of b rows takes a·b + t0, asleep or burning a core.

Read from a file that says ``LAW a t0`` (asleep) or ``SPIN a t0``, in milliseconds. The class
:class:`IsolatedLawBackend` is the same in a host process.

    python benchmarks/law.py REPOSITORY PORT      # serve such files, until SIGTERM
"""

import asyncio
import ctypes
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import openloop

from salver.backends.protocol import LoadOptions, Traits
from salver.words.artifacts import Manifest
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType


class Law:
    """Gives back ``x`` after the time that its rows cost, which ``spend`` is told in seconds."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 1)),), (TensorSpec("y", DataType.FP32, (-1, 1)),), batched=True
    )

    def __init__(self, a: float, t0: float, spend: Callable[[float], object] = time.sleep) -> None:
        self._a = a
        self._t0 = t0
        self._spend = spend

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        self._spend(self._a * len(inputs["x"]) + self._t0)
        return {"y": inputs["x"]}

    def close(self) -> None:
        """Nothing to give back."""


class LawBackend:
    """On a thread of the server."""

    name = "law"
    extra = ""
    modules: tuple[str, ...] = ()
    traits = Traits(native=False)

    def recognise(self, path: Path) -> str | None:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return "law" if file.read(5).startswith((b"LAW ", b"SPIN ")) else None

    def load(self, manifest: Manifest, options: LoadOptions) -> Law:
        return read(manifest.path)


class IsolatedLawBackend(LawBackend):
    """In a host process."""

    traits = Traits(isolate=True)


def read(path: Path) -> Law:
    """The model in that file."""
    kind, a, t0 = path.read_text().split()
    return Law(float(a) / 1e3, float(t0) / 1e3, spinner() if kind == "SPIN" else time.sleep)


def spinner() -> Callable[[float], object]:
    """Burns a core for so many seconds, without the interpreter's lock."""
    spin = ctypes.CDLL(str(openloop.program("spin", ("-shared", "-fPIC")))).spin
    spin.argtypes, spin.restype = [ctypes.c_double], None
    return spin  # type: ignore[no-any-return]


async def _serve(repository: str, port: int) -> None:
    from salver.app import Server
    from salver.configuration import ServeConfig
    from salver.machine import tune_interpreter
    from salver.transport.server import FrontConfig

    config = ServeConfig((repository,), front=FrontConfig(port=port), control="none")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with Server(config, {"law": LawBackend()}):
        tune_interpreter()
        await stopped.wait()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `salver serve`
        runner.run(_serve(sys.argv[1], int(sys.argv[2])))
