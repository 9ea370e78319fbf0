"""Protocols that the registry calls."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from salver.features.registry.records import Description


class InspectedModel(msgspec.Struct, frozen=True):
    """Content of a path that is pushed.

    Attributes:
        files: Files of the version by their path in it.
        description: Result of the inspection.
    """

    files: Mapping[str, Path]
    description: Description


#: Sends a body to a URL with these headers; returns the status of the answer.
Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]
