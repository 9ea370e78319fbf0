"""Console: static pages over the server's own interface, without a build step and usable offline."""

from salver.feature import Feature
from salver.lazy import lazy_imports

with lazy_imports():
    from salver.features.console.files import read, read_docs
    from salver.parts import Kernel, Parts
    from salver.transport.pages import Pages

feature = Feature("console", "salver.features.console:build")


async def build(kernel: Kernel, config: None) -> Parts:
    """Return the console's pages, and the page about the API."""
    return Parts(pages=(Pages("/console", read), Pages("/docs", read_docs)))
