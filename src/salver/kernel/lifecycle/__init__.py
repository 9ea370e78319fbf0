"""Which versions are loaded, in what state, in whose memory?

``policy`` decides from the whole wanted list, ``manager`` does it and hands out leases. Nothing
here reads a repository, and nothing here knows what a servable computes.
"""

from salver.kernel.lifecycle.config import LifecycleConfig
from salver.kernel.lifecycle.manager import Lease, Manager
from salver.kernel.lifecycle.ports import Loader, Servable

__all__ = ["Lease", "LifecycleConfig", "Loader", "Manager", "Servable"]
