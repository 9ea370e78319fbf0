"""Requests by Triton's client to the models of the zoo, and the index of its repository."""

from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_client


def ask(client: Any, triton: ModuleType, model: str, rows: int = 1) -> float:
    given = triton.InferInput("x", [rows, 16], "FP32")
    given.set_data_from_numpy(np.zeros((rows, 16), np.float32))
    return float(client.infer(model, [given]).as_numpy("y")[0, 0])


def index(client: Any, triton: ModuleType) -> dict[tuple[str, str], tuple[str, str]]:
    """State and reason by name and version."""
    rows = client.get_model_repository_index(**({"as_json": True} if triton is grpc_client else {}))
    rows = rows.get("models", []) if isinstance(rows, dict) else rows
    return {(r["name"], r["version"]): (r["state"], r.get("reason", "")) for r in rows}
