"""How is something read over HTTP that belongs to somebody else?

Redirects are followed a few times, from https to https alone, and what proves who we are stays with the host
that asked for it. What comes is bounded, in bytes and in seconds, and checked (``downloading.py``). It knows
no source.
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

from salver.stores import StoreFailed
from salver.stores.sources.connecting import Line, without_user
from salver.stores.sources.downloading import CutOff, Digest, Download, Wanted
from salver.stores.sources.fetched import Progress, silent
from salver.stores.unpack import MOST_BYTES, room_in
from salver.words.errors import LoadFailed

_LOG: Final = logging.getLogger("salver.stores.sources")
_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PIECE: Final = 1 << 20
_QUIET_S: Final = 30.0  # a server that says nothing for so long has gone
_MOST_S: Final = 6 * 3600.0
_MOST_JSON: Final = 4 << 20
_MOST_REASON: Final = 300
_PAUSE_S: Final = 1.0
_MOST_IN_VAIN: Final = 5  # tries, one after the other, that bring nothing
_NOTHING: Final[Mapping[str, str]] = {}


class Refused(StoreFailed):
    """A server's answer was an error.

    Attributes:
        challenge: How it wants to be told who we are (``WWW-Authenticate``), where it is that.
    """

    def __init__(self, message: str, status: int = 0, challenge: str = "", *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.challenge = challenge


#: May one be led from the first URL to the second?
MayFollow = Callable[[str, str], bool]


def may_follow(here: str, there: str) -> bool:
    """From https to https alone."""
    return origin(there)[0] == "https" or origin(here)[0] == "http"


class Web:
    """Reads URLs. Blocking.

    Args:
        clock: Seconds that only grow.
        follows: Redirects of HTTP that may be followed.
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
        """The answer, after redirects.

        Raises:
            Refused: it is an error, or leads round in circles, or to where nobody should be followed.
            StoreFailed: nobody answers.
        """
        with _told(url):
            answer = self._followed(url, headers)
            with answer:
                yield answer

    def content(
        self, url: str, headers: Mapping[str, str] = _NOTHING, most: int = _MOST_JSON
    ) -> tuple[bytes, Mapping[str, str]]:
        """A small answer, whole, and its headers with names in lower case. Raises as :meth:`opened` does."""
        with self.opened(url, headers) as answer:
            found = answer.read(most + 1)
            if len(found) > most:
                raise StoreFailed(f"{_shown(url)} has more than {most} bytes, and is no short answer")
            return found, {name.lower(): value for name, value in answer.headers.items()}

    def json(self, url: str, headers: Mapping[str, str] = _NOTHING) -> Mapping[str, Any]:
        """A small answer that is an object. Raises as :meth:`opened` does."""
        content, _ = self.content(url, headers)
        return parse_object(content, _shown(url))

    def posted(self, url: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        """A small answer to a form, that is an object; nobody is followed, since forms hold secrets.

        Raises:
            Refused: the answer is an error, or leads elsewhere.
            StoreFailed: nobody answers.
        """
        body = urllib.parse.urlencode(form).encode()
        with _told(url), Line(_QUIET_S).ask(url, _NOTHING, body) as answer:
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
        """Write what a URL holds into a new file; its SHA-256. One that is cut off goes on where it ended.

        Args:
            digest, size: What it must be; None = nobody has said.
            most: Bytes that may come.
            seconds: That it may take.

        Raises:
            StoreFailed: also where it is not what the digest or size says; the file is as it may be.
            TooLarge: it has more bytes, or there is no room for them.
            LoadFailed: it cannot be written.
        """
        with _told(url), target.open("xb") as file:
            wanted = Wanted(_shown(url), min(most, room_in(target.parent)), seconds, digest, size)
            download = Download(wanted, file, progress, self._clock)
            in_vain = 0
            while True:
                before = download.done
                try:
                    self._more(url, headers, download)
                    return download.ended()
                except (OSError, CutOff, http.client.HTTPException, Refused) as error:
                    if isinstance(error, Refused) and error.status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
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
            ):  # what is there; never waits for all
                download.add(piece)
        download.check_whole()

    def _followed(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        here, ours = without_user(url)
        mine = {**ours, **headers}
        for _ in range(_MOST_REDIRECTS + 1):
            answer = Line(_QUIET_S).ask(here, mine)
            if answer.status not in _REDIRECTS:
                if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
                    with answer:
                        raise _refusal(here, answer)
                return answer
            answer.close()
            there = urllib.parse.urljoin(here, answer.headers.get("Location", ""))
            if not (_is_sound(there) and self._follows(here, there)):
                raise Refused(f"{_shown(url)} leads to {_shown(there)}, where nobody is followed")
            if origin(here) != origin(there):
                mine = {name: value for name, value in mine.items() if name.lower() != "authorization"}
            here = there
        raise Refused(f"{_shown(url)} leads on and on: {_MOST_REDIRECTS} redirects were followed")


def parse_object(content: bytes, what: str) -> Mapping[str, Any]:
    """JSON that is an object.

    Raises:
        StoreFailed: it is none.
    """
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreFailed(f"{what} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise StoreFailed(f"{what} is no JSON object")
    return found


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port; what is no URL has an empty scheme.

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


def _refusal(url: str, answer: http.client.HTTPResponse) -> Refused:
    body = answer.read(_MOST_REASON).decode("utf-8", "replace")
    words = " ".join("".join(c if c.isprintable() else " " for c in body).split())
    what = f"{_shown(url)} answers {answer.status} {answer.reason or ''}".rstrip()
    return Refused(
        f"{what}: {words}" if words else what, answer.status, answer.headers.get("WWW-Authenticate", "")
    )


def _shown(url: str) -> str:
    """For messages: without a name, a password or a signature of it."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return repr(url[:_MOST_REASON])
    host = parts.netloc.rpartition("@")[2]
    shown = urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
    return "".join(c if c.isprintable() else "?" for c in shown[:_MOST_REASON])


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
