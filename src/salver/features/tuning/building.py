"""Parts that the feature of tuning adds to a server."""

from salver.features.tuning.loading import LoadTuning
from salver.features.tuning.profiles import ProfileStore
from salver.kernel.serving.loading import Additions
from salver.parts import Kernel, Parts


async def build(kernel: Kernel, config: None) -> Parts:
    """Return what finds settings for models that have an objective."""
    profiles = ProfileStore(kernel.config.state_dir)
    return Parts(additions=Additions(tuning=LoadTuning(profiles, kernel.clock, kernel.terms.cores)))
