"""A model whose time is known: a run of b rows takes a·b + t0, asleep.

Read from a file that says ``LAW a t0`` in milliseconds. The class :class:`IsolatedLawBackend` is the
same in a host process.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from salver.artifacts import Manifest
from salver.backends.protocol import LoadOptions, Traits
from salver.messages import Signature, TensorSpec
from salver.tensor import Array, DataType


class Law:
    """Gives back ``x`` after the time that its rows cost."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 1)),), (TensorSpec("y", DataType.FP32, (-1, 1)),), batched=True
    )

    def __init__(self, a: float, t0: float) -> None:
        self._a = a
        self._t0 = t0

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        time.sleep(self._a * len(inputs["x"]) + self._t0)
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
            return "law" if file.read(4) == b"LAW " else None

    def load(self, manifest: Manifest, options: LoadOptions) -> Law:
        _, a, t0 = manifest.path.read_text().split()
        return Law(float(a) / 1e3, float(t0) / 1e3)


class IsolatedLawBackend(LawBackend):
    """In a host process."""

    traits = Traits(isolate=True)
