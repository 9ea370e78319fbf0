"""Places that models are imported from.

One small protocol covers object stores, URLs, MLflow, OCI registries and snapshots of Hugging Face. Each
source fetches complete, verified files and names the immutable state that they belong to. ``opening.py``
knows all of them.
"""

from salver.stores.sources.fetched import FetchedModel, Progress, Source, silent

__all__ = ["FetchedModel", "Progress", "Source", "silent"]
