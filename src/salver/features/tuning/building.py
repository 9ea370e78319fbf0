"""Parts that the feature of tuning adds to a server."""

from salver.kernel.serving.loading import Additions
from salver.lazy import lazily, lazy_imports
from salver.parts import Kernel, Parts

with lazy_imports():
    from salver.features.tuning.loading import LoadTuning
    from salver.features.tuning.profiles import ProfileStore


async def build(kernel: Kernel, config: None) -> Parts:
    """Return what finds settings for models that have an objective."""
    profiles = lazily(ProfileStore, kernel.config.state_dir)
    return Parts(additions=Additions(tuning=lazily(LoadTuning, profiles, kernel.clock, kernel.terms.cores)))
