"""Wiring of the console into a server."""

from salver.lazy import lazy_imports
from salver.parts import Kernel, Parts
from salver.transport.pages import Pages

with lazy_imports():
    from salver.features.console.files import read, read_docs


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the console's pages, and the page about the API."""
    return Parts(pages=(Pages("/console", read), Pages("/docs", read_docs)))
