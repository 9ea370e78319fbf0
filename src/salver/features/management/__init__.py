"""How do programs manage what this server serves, over HTTP?

``/api/v1/…``: operations that are declared once (``transport/operations.py``), read and written by their
records, and
described by them (``openapi.py``). It does nothing itself: an operation hands on to the planes behind it.
"""

from salver.features.management.door import Management
from salver.transport.access_check import Access, ApiConfig, Caller, Changing
from salver.transport.operations import Answer, Api, ApiRequest, Operation

__all__ = [
    "Access",
    "Answer",
    "Api",
    "ApiConfig",
    "ApiRequest",
    "Caller",
    "Changing",
    "Management",
    "Operation",
]
