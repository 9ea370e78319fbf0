"""What does the lifecycle need from others?"""

from typing import Protocol, TypeVar

from salver.words.artifacts import Manifest, ModelConfig

ServableT_co = TypeVar("ServableT_co", covariant=True)


class Servable(Protocol):
    """A loaded version: whatever answers requests.

    One that remembers sequences of requests has a coroutine function ``leave``, too: it is given seconds, and
    returns when no sequence is under way any more; what is left then has been ended.
    """

    @property
    def bytes(self) -> int:
        """Estimate of the memory that it holds."""
        ...

    async def warm(self, config: ModelConfig) -> None:
        """Run the warm-up requests; raises as the model does."""
        ...

    async def adjust(self, manifest: Manifest) -> bool:
        """Have as many instances as this says, which is otherwise what was loaded; False = it cannot."""
        ...

    async def close(self) -> None:
        """Let it go, with its memory, threads and processes. Called once."""
        ...


class Loader(Protocol[ServableT_co]):
    """Turns a manifest into a servable, off the event loop."""

    async def load(self, manifest: Manifest) -> ServableT_co:
        """Load it. When cancelled, whatever was half loaded is given back.

        Raises:
            LoadFailed: with the reason.
        """
        ...
