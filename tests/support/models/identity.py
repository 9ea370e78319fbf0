"""Gives back what it gets."""

from collections.abc import Mapping
from typing import Any, ClassVar


class Model:
    inputs: ClassVar = {"x": ("DATATYPE", [-1, -1])}
    outputs: ClassVar = {"y": ("DATATYPE", [-1, -1])}

    def predict(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"y": inputs["x"]}
