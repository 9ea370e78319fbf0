"""How do programs manage what this server serves, over HTTP?

``/api/v1/…``: operations that are declared once (``table.py``), read and written by their records, and
described by them (``openapi.py``). It does nothing itself: an operation hands on to the planes behind it.
"""

from salver.transport.access_check import Access, ApiConfig, Caller, Changing
from salver.transport.api.door import Management
from salver.transport.api.table import Answer, Api, Asked, Operation

__all__ = ["Access", "Answer", "Api", "ApiConfig", "Asked", "Caller", "Changing", "Management", "Operation"]
