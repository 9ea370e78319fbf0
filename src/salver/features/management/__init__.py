"""Management API over HTTP.

``/api/v1/…``: operations declared once (``transport/operations.py``), parsed and formatted by their records,
and described by them (``openapi.py``). Operations delegate to the planes behind them.
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
