"""Reading of the files with warm-up requests, which are Open Inference."""

from collections.abc import Callable

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest


class WarmupFiles:
    """Lets every model be warmed up with a request in a file."""

    async def prepare(self, manifest: Manifest) -> Callable[[Servable], None]:
        """See :class:`~salver.kernel.serving.loading.Attachment`."""
        return _attach


def _attach(servable: Servable) -> None:
    servable.warmer.decode = OpenInferenceHttp().decode
