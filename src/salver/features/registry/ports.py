"""What does the registry need from others?"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from salver.features.registry.records import Description


class Found(msgspec.Struct, frozen=True):
    """What lies at a path that somebody wants to push.

    Attributes:
        files: Each file of the version, by the path that it is to have in it.
        description: What a look at it tells.
    """

    files: Mapping[str, Path]
    description: Description


class Inspect(Protocol):
    """Finds out what a model is (``features/registry/inspecting.py``, over the backends)."""

    async def __call__(self, path: Path) -> Found:
        """Look at a file or folder.

        Raises:
            SalverError: it holds no model, or several.
        """
        ...


#: Sends a body to a URL with these headers; the status of the answer.
Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]
