"""Places that hold artefacts.

One small protocol reads a tree of files, whatever holds it. A store knows no model, version or
format; ``repository`` does. ``salver.testing.stores`` holds the conformance suite.
"""

from salver.lazy import lazy_imports
from salver.stores.file import FileStore
from salver.stores.opening import open_store
from salver.stores.protocol import DistantStore, Entry, Store, StoreFailed

with lazy_imports():
    from salver.stores.copies import Copies
    from salver.stores.distant import ObjectStore
    from salver.stores.memory import MemoryStore


__all__ = [
    "Copies",
    "DistantStore",
    "Entry",
    "FileStore",
    "MemoryStore",
    "ObjectStore",
    "Store",
    "StoreFailed",
    "open_store",
]
