"""Which versions exist, and are they whole?

``Repository.scan`` gives the whole wanted list each time, as manifests. What the files mean to a
framework is the backends' business, what becomes of the list the lifecycle's.
"""

from salver.dialects.tensorflow.model_list import Customs, Place
from salver.kernel.repository.config import RepositoryConfig
from salver.kernel.repository.ports import Recognise, Recognised
from salver.kernel.repository.repository import Repository

__all__ = ["Customs", "Place", "Recognise", "Recognised", "Repository", "RepositoryConfig"]
