"""TorchServe among the backends.

Recognises archives, packed or not, and loads unpacked ones, each in a host process of its own.
"""

from pathlib import Path

from salver.backends.loading import choice_of, options_of
from salver.backends.protocol import LoadOptions, RunnableModel, Traits
from salver.dialects.torchserve.backend.recognising import is_archive
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.handlers import FORMAT, Workers

with lazy_imports():
    from salver.dialects.torchserve.backend.asynchronous import AsyncHandlerModel
    from salver.dialects.torchserve.backend.model import HandlerModel
    from salver.dialects.torchserve.backend.opening import open_handler


_OPTIONS = (
    "handler", "envelope", "url", "runtime", "decode", "limit_max_image_pixels", "metrics_config",
    "share_weights",
)  # fmt: skip
_YES_NO = ("true", "false")


class TorchServeBackend:
    """Handlers in TorchServe's archives.

    Options: handler, runtime: Override those of the archive. envelope: Envelope, if the archive names none:
    ``body``, ``json``, ``kserve`` or ``kservev2``. decode: ``false``: parts of a form reach the handler as
    bytes, whatever their type. limit_max_image_pixels: Passed to the handler. metrics_config: File that
    declares its metrics (``metrics.yaml``). share_weights: ``false``: each worker loads the model by itself,
    without sharing memory. url: Origin of the archive; not used here.
    """

    name = "torchserve"
    extra = "torchserve"
    modules: tuple[str, ...] = ("yaml",)
    traits = Traits(
        releases_gil=False, concurrent=False, native=False, isolate=True, harmless_formats=frozenset()
    )

    def recognise(self, path: Path) -> str | None:
        """Return the format of archives, and of folders with ``MAR-INF/MANIFEST.json``."""
        if is_archive(path):
            return FORMAT
        return None

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """Import and initialise the handler of an unpacked archive."""
        name = manifest.id.name
        knobs = options_of(manifest, _OPTIONS)
        is_decoded = choice_of(knobs, "decode", _YES_NO) == "true"
        choice_of(knobs, "limit_max_image_pixels", _YES_NO)
        choice_of(knobs, "share_weights", _YES_NO)
        if not options.own_process:
            raise LoadFailed(
                f"model '{name}' is a handler, which needs a process of its own",
                fix='Remove instances.runner from its configuration, or set it to "process".',
            )
        if not manifest.path.is_dir():
            raise LoadFailed(f"{manifest.path} is not unpacked", fix="Name the folder with its content.")
        workers = manifest.config.workers or Workers()
        handler = open_handler(manifest, options, self)
        if workers.is_async:
            return AsyncHandlerModel(handler, is_decoded)
        return HandlerModel(handler, is_decoded, workers.is_continuous)
