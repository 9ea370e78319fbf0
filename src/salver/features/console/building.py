"""Wiring of the console into a server."""

from salver.features.console.files import read, read_docs
from salver.parts import Kernel, Parts
from salver.transport.pages import Pages


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the console's pages, and the page about the API."""
    return Parts(pages=(Pages("/console", read), Pages("/docs", read_docs)))
