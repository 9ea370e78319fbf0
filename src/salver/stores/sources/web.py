"""HTTP client for servers of others.

A few redirects are followed, from https only to https, and credentials are sent only to the host that asked
for them. Responses are bounded in bytes and seconds and verified (``downloading.py``).
"""

import http.client
import logging
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.encoding.escaping import printable
from salver.stores import StoreFailed
from salver.stores.sources.connecting import HttpCall, without_user
from salver.stores.sources.downloading import Digest, Download, DownloadInterrupted, DownloadRequest
from salver.stores.sources.fetched import Progress, silent
from salver.stores.unpack import MOST_BYTES, room_in
from salver.words.errors import LoadFailed

_LOG: Final = logging.getLogger("salver.sources")
_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PIECE: Final = 1 << 20
_QUIET_S: Final = 30.0  # longest silence of a server, in seconds
_MOST_S: Final = 6 * 3600.0
_MOST_JSON: Final = 4 << 20
_MOST_REASON: Final = 300
_PAUSE_S: Final = 1.0
_MOST_IN_VAIN: Final = 5  # consecutive attempts without progress
_NOTHING: Final[Mapping[str, str]] = {}


class HttpError(StoreFailed):
    """A server answered with an error.

    Attributes:
        challenge: ``WWW-Authenticate`` of a 401.
    """

    def __init__(self, message: str, status: int = 0, challenge: str = "", *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.challenge = challenge


#: Tells whether a redirect from the first URL to the second may be followed.
MayFollow = Callable[[str, str], bool]


def may_follow(here: str, there: str) -> bool:
    """Return whether a redirect keeps to https."""
    return origin(there)[0] == "https" or origin(here)[0] == "http"


class Web:
    """Client that reads URLs. Blocking.

    Args:
        clock: Monotonic seconds.
        follows: Tells whether a redirect may be followed.
        sleep: Waits that many seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        follows: MayFollow = may_follow,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._follows = follows
        self._sleep = sleep

    def __repr__(self) -> str:
        return "<Web>"

    @contextmanager
    def opened(self, url: str, headers: Mapping[str, str] = _NOTHING) -> Iterator[http.client.HTTPResponse]:
        """Return the response, after redirects.

        Raises:
            HttpError: it is an error, or redirects in circles or to a forbidden place.
            StoreFailed: there is no answer.
        """
        with _told(url):
            answer = self._followed(url, headers)
            with answer:
                yield answer

    def content(
        self, url: str, headers: Mapping[str, str] = _NOTHING, most: int = _MOST_JSON
    ) -> tuple[bytes, Mapping[str, str]]:
        """Return a small response and its headers, in lower case. Raises as :meth:`opened` does."""
        with self.opened(url, headers) as answer:
            found = answer.read(most + 1)
            if len(found) > most:
                raise StoreFailed(f"{_shown(url)} has more than {most} bytes")
            return found, {name.lower(): value for name, value in answer.headers.items()}

    def json(self, url: str, headers: Mapping[str, str] = _NOTHING) -> Mapping[str, Any]:
        """Return a small response that is a JSON object. Raises as :meth:`opened` does."""
        content, _ = self.content(url, headers)
        return parse_object(content, _shown(url))

    def posted(self, url: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        """Post a form; return a JSON object. Redirects are not followed, since forms hold secrets.

        Raises:
            HttpError: the answer is an error or a redirect.
            StoreFailed: there is no answer.
        """
        body = urllib.parse.urlencode(form).encode()
        with _told(url), HttpCall(_QUIET_S).ask(url, _NOTHING, body) as answer:
            if answer.status != http.HTTPStatus.OK:
                raise _refusal(url, answer)
            return parse_object(answer.read(_MOST_JSON), _shown(url))

    def download(
        self,
        url: str,
        target: Path,
        progress: Progress = silent,
        *,
        digest: Digest | None = None,
        size: int | None = None,
        headers: Mapping[str, str] = _NOTHING,
        most: int = MOST_BYTES,
        seconds: float = _MOST_S,
    ) -> str:
        """Download a URL into a new file; return its SHA-256. Interrupted downloads resume.

        Args:
            digest, size: Expected values; None = unknown.
            most: Most bytes.
            seconds: Longest duration.

        Raises:
            StoreFailed: also if it does not match digest or size; the file may be incomplete.
            TooLarge: it has more bytes, or there is no room for them.
            LoadFailed: it cannot be written.
        """
        with _told(url), target.open("xb") as file:
            wanted = DownloadRequest(_shown(url), min(most, room_in(target.parent)), seconds, digest, size)
            download = Download(wanted, file, progress, self._clock)
            in_vain = 0
            while True:
                before = download.done
                try:
                    self._more(url, headers, download)
                    return download.ended()
                except (OSError, DownloadInterrupted, http.client.HTTPException, HttpError) as error:
                    if isinstance(error, HttpError) and error.status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                        raise
                    in_vain = 0 if download.done > before else in_vain + 1
                    if not download.may_go_on or in_vain == _MOST_IN_VAIN:
                        raise
                    _LOG.info("%s goes on after %d bytes: %s", wanted.what, download.done, error)
                download.check_time()
                self._sleep(_PAUSE_S * 2**in_vain)

    def _more(self, url: str, headers: Mapping[str, str], download: Download) -> None:
        with self._followed(url, {**headers, **download.asked()}) as answer:
            download.begin(answer.status, answer.headers)  # type: ignore[arg-type]
            while not download.is_whole and (
                piece := answer.read1(_PIECE)
            ):  # what has arrived; does not wait for all
                download.add(piece)
        download.check_whole()

    def _followed(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        here, ours = without_user(url)
        mine = {**ours, **headers}
        for _ in range(_MOST_REDIRECTS + 1):
            answer = HttpCall(_QUIET_S).ask(here, mine)
            if answer.status not in _REDIRECTS:
                if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
                    with answer:
                        raise _refusal(here, answer)
                return answer
            answer.close()
            there = urllib.parse.urljoin(here, answer.headers.get("Location", ""))
            if not (_is_sound(there) and self._follows(here, there)):
                raise HttpError(f"{_shown(url)} redirects to {_shown(there)}, which is not allowed")
            if origin(here) != origin(there):
                mine = {name: value for name, value in mine.items() if name.lower() != "authorization"}
            here = there
        raise HttpError(f"{_shown(url)} leads on and on: {_MOST_REDIRECTS} redirects were followed")


def parse_object(content: bytes, what: str) -> Mapping[str, Any]:
    """Parse JSON that is an object.

    Raises:
        StoreFailed: it is none.
    """
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreFailed(f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise StoreFailed(f"{what} is not a JSON object")
    return found


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port; the scheme is empty for what is no URL.

    >>> origin("https://A.example/x"), origin("http://[::1]:5000/")
    (('https', 'a.example', 443), ('http', '::1', 5000))
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return "", "", 0
    return parts.scheme, (parts.hostname or "").lower(), port


def _is_sound(url: str) -> bool:
    scheme, host, _ = origin(url)
    is_fine = url.isascii() and url.isprintable() and len(url) <= 16 << 10
    return is_fine and scheme in ("http", "https") and bool(host)


def _refusal(url: str, answer: http.client.HTTPResponse) -> HttpError:
    body = answer.read(_MOST_REASON).decode("utf-8", "replace")
    words = " ".join(printable(body, " ").split())
    what = f"{_shown(url)} answers {answer.status} {answer.reason or ''}".rstrip()
    if words:
        what += f": {words}"
    return HttpError(what, answer.status, answer.headers.get("WWW-Authenticate", ""))


def _shown(url: str) -> str:
    """Return a URL for messages, without name, password or signature."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return repr(url[:_MOST_REASON])
    host = parts.netloc.rpartition("@")[2]
    shown = urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
    return printable(shown[:_MOST_REASON])


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except LoadFailed:
        raise
    except (OSError, EOFError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.filename:
            reason = f"{os.fsdecode(error.filename)}: {error.strerror}"
        raise StoreFailed(f"{_shown(url)} cannot be read: {reason}") from error
