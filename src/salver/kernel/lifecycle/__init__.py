"""Loading and unloading of model versions.

``policy`` decides from the list of wanted versions; ``manager`` carries out the steps and hands out leases.
Nothing here reads a repository or knows what a servable computes.
"""

from salver.kernel.lifecycle.copies import Lease
from salver.kernel.lifecycle.manager import Manager
from salver.kernel.lifecycle.ports import LifecycleConfig, Loader, Servable

__all__ = ["Lease", "LifecycleConfig", "Loader", "Manager", "Servable"]
