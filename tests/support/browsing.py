"""How do the console's tests use a browser? Not a suite itself."""

from collections.abc import Callable

from playwright.sync_api import ConsoleMessage, Page

#: No sandbox, since tests may run as root; nothing is fetched but what a page asks for.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--in-process-gpu",
    "--disable-software-rasterizer",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
)
#: For what has to come; machines are busy.
PATIENCE_MS = 45_000
Open = Callable[..., Page]


def is_wrong(said: ConsoleMessage) -> bool:
    """A refusal or a server that is away is told by the browser as well, and part of a test."""
    return said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")


def hear(page: Page, path: str = "/api/v1/server") -> None:
    """Until the page has heard of the server once more."""
    with page.expect_response(lambda reply: path in reply.url):
        pass
