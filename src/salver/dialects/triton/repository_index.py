"""Bodies of the calls of Triton's model repository that list models.

Pure.
"""

from collections.abc import Iterable

from salver.encoding.json_text import json_object
from salver.encoding.model_entries import INDEX_STATE
from salver.words.errors import InvalidInput, Unsupported
from salver.words.messages import State, VersionStatus


def index(statuses: Iterable[VersionStatus], only_ready: bool = False) -> list[dict[str, str]]:
    """Return the repository index (TR-R11)."""
    return [
        {
            "name": status.id.name,
            "version": status.id.version,
            "state": INDEX_STATE[status.state],
            "reason": status.reason,
        }
        for status in statuses
        if not only_ready or status.state is State.READY
    ]


def parse_index(body: bytes) -> bool:
    """Return whether only ready versions are wanted; an empty body asks for all.

    Raises:
        InvalidInput: the body is not an object, or ``ready`` is no boolean.
        Unsupported: a repository is named.
    """
    root = json_object(body)
    refuse_repository(root.get("repository_name", ""))
    ready = root.get("ready", False)
    if type(ready) is not bool:
        raise InvalidInput("Invalid value for 'ready': expected a boolean", field="ready")
    return ready


def refuse_repository(name: object) -> None:
    """Check that no repository is named: there is one, and it has no name.

    Raises:
        Unsupported: a name is given.
    """
    if name:
        raise no_repository()


def no_repository() -> Unsupported:
    """Return the error of a request that names a repository."""
    return Unsupported("'repository_name' specification is not supported")
