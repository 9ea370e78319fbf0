"""Surroundings of models in Triton's form: their configuration, and the Python that they bring."""

from pathlib import Path

from salver.dialects.triton.environments import Environments
from salver.dialects.triton.version_config import told
from salver.kernel.engine.spawn import Interpreter
from salver.words.artifacts import Manifest


class TritonPrograms:
    """Gives models that read their configuration what Triton would.

    Args:
        cache: Folder in which environments are unpacked.
    """

    def __init__(self, cache: Path) -> None:
        self._environments = Environments(cache)

    def config(self, manifest: Manifest, instances: int) -> str:
        """See :class:`~salver.kernel.serving.loading.Programs`."""
        return told(manifest, instances)

    async def interpreter(self, manifest: Manifest) -> Interpreter | None:
        """See :class:`~salver.kernel.serving.loading.Programs`."""
        return await self._environments.open(manifest)
