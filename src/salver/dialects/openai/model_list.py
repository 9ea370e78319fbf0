"""OpenAI's list of models. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from salver.encoding.model_entries import INDEX_STATE, openai_model
from salver.words.messages import State, VersionStatus

_NO_NAMES: Final[Mapping[str, Sequence[str]]] = {}


def list_models(
    statuses: Iterable[VersionStatus], owner: str, created: int, more: Mapping[str, Sequence[str]] = _NO_NAMES
) -> dict[str, Any]:
    """Return OpenAI's list of models, each with its versions, and KServe v1's list of the ready ones.

    Args:
        owner: Name of the server.
        created: Unix seconds since which it serves them.
        more: Further names by a model's own name.
    """
    versions: dict[str, list[VersionStatus]] = {}
    for status in statuses:
        versions.setdefault(status.id.name, []).append(status)
    entries = [
        {
            **openai_model(each, owner, created),
            "ready": any(s.state is State.READY for s in mine),
            "versions": [
                {"version": s.id.version, "state": INDEX_STATE[s.state], "reason": s.reason} for s in mine
            ],
        }
        for name, mine in sorted(versions.items())
        for each in (name, *more.get(name, ()))
    ]
    return {"object": "list", "data": entries, "models": [e["id"] for e in entries if e["ready"]]}
