"""Entries of lists of models that several dialects share.

Pure.
"""

from typing import Any, Final

from salver.words.messages import State

#: Our state -> the state that Triton's index and OpenAI's list show (TR-R11).
INDEX_STATE: Final[dict[State, str]] = {
    State.NEW: "LOADING",
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.UNLOADING: "UNLOADING",
    State.GONE: "UNAVAILABLE",
    State.FAILED: "UNAVAILABLE",
}


def openai_model(name: str, owner: str, created: int) -> dict[str, Any]:
    """Return a model as OpenAI's routes describe it.

    Args:
        owner: Name of the server.
        created: Unix seconds since which it serves the model.
    """
    return {"id": name, "object": "model", "created": created, "owned_by": owner}
