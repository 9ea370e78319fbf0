"""Where do artefacts lie?

One small protocol over a tree of files, whatever holds it. A store knows no model, version or
format; ``repository`` does. ``salver.testing.stores`` holds the conformance suite.
"""

from salver.stores.file import FileStore
from salver.stores.memory import MemoryStore
from salver.stores.protocol import Entry, Store, StoreFailed

__all__ = ["Entry", "FileStore", "MemoryStore", "Store", "StoreFailed"]
