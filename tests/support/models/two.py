"""Has two outputs."""

from collections.abc import Mapping
from typing import Any, ClassVar


class Model:
    inputs: ClassVar = {"x": ("FP32", [-1, 3])}
    outputs: ClassVar = {"same": ("FP32", [-1, 3]), "double": ("FP32", [-1, 3])}

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"same": inputs["x"], "double": inputs["x"] * 2}
