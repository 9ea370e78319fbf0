"""What do others keep as a model, and what do they know of it?

One small protocol over the places that models are imported from: object stores, URLs, MLflow, OCI registries,
snapshots of Hugging Face. Each brings the files onto this machine, whole and checked, and says to which
immutable state they belong. What is done with them is not known here. ``opening.py`` knows all of them.
"""

from salver.stores.sources.fetched import Fetched, Progress, Source, silent

__all__ = ["Fetched", "Progress", "Source", "silent"]
