"""Models, their versions and configurations, as they lie in files.

``Repository.scan`` gives the whole list each time, as manifests. What the files mean to a framework is the
backends' business, what becomes of the list the lifecycle's.
"""

from salver.kernel.repository.config import RepositoryConfig
from salver.kernel.repository.named_models import NamedModel, NamedModelDefaults
from salver.kernel.repository.ports import Formats
from salver.kernel.repository.repository import Repository

__all__ = ["Formats", "NamedModel", "NamedModelDefaults", "Repository", "RepositoryConfig"]
