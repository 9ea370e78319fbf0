"""A small web server in this process that answers as a test says."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Page(NamedTuple):
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    length: int | None = None  # that it says; None = the body's


Asked = Mapping[str, str]
Route = Page | Callable[[str, Asked], Page]


class Site:
    """Pages by path; what was asked stands in ``asked``: headers in lower case, and a form as a query."""

    def __init__(self) -> None:
        self.pages: dict[str, Route] = {}
        self.asked: list[tuple[str, Asked]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                self._answer(self.path)

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._answer(f"{self.path}?{form}")

            def _answer(self, path: str) -> None:
                asked = {name.lower(): value for name, value in self.headers.items()}
                site.asked.append((path, asked))
                route = site.pages.get(path.partition("?")[0], Page(b"nothing here", 404))
                page = route if isinstance(route, Page) else route(path, asked)
                self.send_response(page.status)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                length = len(page.body) if page.length is None else page.length
                if length >= 0:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(page.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def a_site() -> Iterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        site.stop()
