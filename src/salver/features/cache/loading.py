"""Response cache before the engines of models that want one."""

from collections.abc import Callable

from salver.features.cache.cached import CachedModel
from salver.features.cache.caching import Caching
from salver.features.cache.local import LocalCache
from salver.kernel.engine.engine import Engine
from salver.kernel.serving.capabilities import Infer
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.messages import Signature


class CacheAttachment:
    """Puts the server's cache before models whose configuration says ``response_cache``."""

    def __init__(self, caching: Caching) -> None:
        self._caching = caching

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None] | None:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        if manifest.config.response_cache:
            return self.attach
        return None

    def attach(self, servable: Servable) -> None:
        """See :class:`~salver.kernel.serving.loading.CacheCover`."""
        manifest, engine = servable.manifest, servable.engine
        sees_parameters = not isinstance(engine, Engine) or engine.answers_each
        post = None
        if self._caching.near is not None:  # others have to be waited for
            post = servable.capabilities.post
        made: list[CachedModel] = []

        def cover(infer: Infer) -> Infer:
            cached = CachedModel(
                self._caching,
                infer,
                manifest.id,
                manifest.fingerprint,
                sees_parameters=sees_parameters,
                post=post,
                stateful=_stateful(servable.signature),
            )
            made.append(cached)
            return cached.infer

        servable.cover(cover)
        servable.at_end(made[0].close)
        # A full queue refuses no hit, so no request is refused before it is decoded.
        servable.declare(post=made[0].post if post is not None else None, foresee=None)
        if isinstance(self._caching.near, LocalCache) and self._caching.near.settings.ttl:
            servable.declare(stale=made[0].stale)


def _stateful(signature: Signature) -> frozenset[str]:
    """Return the names of the signatures whose runs affect later ones; empty for the default one."""
    names = {each.name for each in (signature, *signature.others) if each.is_stateful}
    if signature.is_stateful:
        names.add("")
    return frozenset(names)
