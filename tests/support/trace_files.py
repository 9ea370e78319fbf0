"""Trace files in Triton's JSON, read while a server writes them."""

import json
from pathlib import Path
from typing import Any


def trace_objects(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a trace file; none while it is not there, or in the middle of a write."""
    try:
        objects: list[dict[str, Any]] = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return objects
