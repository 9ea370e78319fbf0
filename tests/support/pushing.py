"""Pushes of the perceptron of the zoo to a registry, and a request body for it."""

from pathlib import Path

import numpy as np
import zoo
from registries import ANN

from salver.backends.discovery import backends, recogniser
from salver.features.registry.inspecting import Inspector
from salver.features.registry.records import NewVersion
from salver.features.registry.registry import ModelRegistry
from salver.features.tuning.profiles import ProfileStore
from salver.parts import formats

VALUES = np.arange(16, dtype=np.float32).reshape(1, 16) / 16
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": VALUES.tolist()}]}


async def push(registry: ModelRegistry, folder: Path, alias: str = "") -> int:
    """The zoo's perceptron, which a trial load is not needed for."""
    zoo.write_mlp(folder, 1)
    known = backends()
    found = await Inspector(known, formats(recogniser(known)), ProfileStore(), None)(folder)
    return (await registry.push(NewVersion("fraud", alias=alias), found, ANN)).number
