"""How does a program ask a Salver server, or another that speaks the Open Inference Protocol?"""

from salver.client.client import Client
from salver.client.http import Unreachable
from salver.releases import Outcome, Receipt

__all__ = ["Client", "Outcome", "Receipt", "Unreachable"]
