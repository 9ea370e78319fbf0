"""Response cache before the engines of models that want one."""

from collections.abc import Callable

from salver.features.cache.caching import Caching
from salver.kernel.engine.engine import Engine
from salver.kernel.serving.capabilities import Infer
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest


class CacheAttachment:
    """Puts the server's cache before models whose configuration says ``response_cache``."""

    def __init__(self, caching: Caching) -> None:
        self._caching = caching

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None] | None:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        if manifest.config.response_cache:
            return self._attach
        return None

    def _attach(self, servable: Servable) -> None:
        manifest, engine = servable.manifest, servable.engine
        sees_parameters = not isinstance(engine, Engine) or engine.answers_each

        def cover(infer: Infer) -> Infer:
            cached = self._caching.before(
                infer, manifest.id, manifest.fingerprint, sees_parameters=sees_parameters
            )
            servable.at_end(cached.close)
            return cached.infer

        servable.cover(cover)
