"""Python backend that runs models written for Triton as well as plain classes."""

import ast

import msgspec

from salver.backends.loading import no_gpu
from salver.backends.protocol import LoadOptions, RunnableModel
from salver.backends.python import PythonBackend
from salver.dialects.triton.python_backend import FORMAT
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest

with lazy_imports():
    from salver.dialects.triton.python_backend.opening import defines_model, load


class TritonPythonBackend(PythonBackend):
    """Replacement of the backend ``python`` with one more format, ``triton_python``."""

    traits = msgspec.structs.replace(PythonBackend.traits, gpu=True)

    def format_of(self, content: bytes, tree: ast.Module | None) -> str | None:
        """Return ``triton_python`` for source that defines ``TritonPythonModel``."""
        if defines_model(content, tree):
            return FORMAT
        return super().format_of(content, tree)

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return (__name__, "salver.dialects.triton.python_backend.opening", *super().preloads(manifest))

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """Load a ``TritonPythonModel`` as Triton does; anything else as a plain class."""
        if manifest.format == FORMAT:
            return load(manifest, options)
        if options.gpu is not None:
            why = "it is not told which one it has"
            raise no_gpu("a plain Python class", options.gpu, why, "Write it as TritonPythonModel")
        return super().load(manifest, options)
