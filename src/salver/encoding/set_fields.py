"""Fields of a protobuf message that are set. Pure."""

from collections.abc import Iterator
from typing import Any


def set_fields(message: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths of the fields that are set, without indices and keys: ``instance_group.count``."""
    for field, value in message.ListFields():
        path = prefix + field.name
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if field.message_type is None or (is_map and not hasattr(next(iter(value.values())), "ListFields")):
            yield path
            continue
        parts = [value]
        if is_map:
            parts = list(value.values())
        elif isinstance(value, list) or hasattr(value, "add"):
            parts = value
        for part in parts:
            below = tuple(set_fields(part, f"{path}."))
            yield from below or (path,)
