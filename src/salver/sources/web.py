"""How is something read over HTTP that belongs to somebody else?

Redirects are followed a few times, from https to https alone, and what proves who we are stays with the host
that asked for it. What comes is bounded, in bytes and in seconds, and hashed while it comes. It knows no
source.
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from salver.sources.fetched import Progress
from salver.stores import StoreFailed
from salver.stores.unpack import MOST_BYTES, room_in

_MOST_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PIECE: Final = 1 << 20
_QUIET_S: Final = 30.0  # a server that says nothing for so long has gone
_MOST_S: Final = 6 * 3600.0
_MOST_JSON: Final = 4 << 20
_MOST_REASON: Final = 300
_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})", re.ASCII)
_NOTHING: Final[Mapping[str, str]] = {}


class Digest(msgspec.Struct, frozen=True):
    """What content must be, as ``sha256:…`` or ``sha512:…``."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.algorithm}:{self.hex}"


def parse_digest(text: object) -> Digest | None:
    """None = it is none that is known.

    >>> str(parse_digest("sha256:" + "0" * 64))[:12], parse_digest("md5:00")
    ('sha256:00000', None)
    """
    match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    return Digest(match[1] or match[3], match[2] or match[4]) if match else None


class Refused(StoreFailed):
    """A server's answer was an error.

    Attributes:
        challenge: How it wants to be told who we are (``WWW-Authenticate``), where it is that.
    """

    def __init__(self, message: str, status: int = 0, challenge: str = "", *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.challenge = challenge


class Web:
    """Reads URLs. Blocking.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._opener = urllib.request.build_opener(_Stay)

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

    def download(
        self,
        url: str,
        target: Path,
        progress: Progress,
        *,
        digest: Digest | None = None,
        size: int | None = None,
        headers: Mapping[str, str] = _NOTHING,
    ) -> str:
        """Write what a URL holds into a new file; its SHA-256.

        Args:
            digest, size: What it must be; None = nobody has said.

        Raises:
            StoreFailed: also where it is not what the digest or size says; the file is as it may be.
            LoadFailed: there is no room.
        """
        with self.opened(url, headers) as answer, target.open("xb") as file:
            told = answer.headers.get("Content-Length", "")
            whole = size if size is not None else int(told) if told.isdecimal() else None
            most = min(MOST_BYTES, room_in(target.parent)) if size is None else size
            if (whole or 0) > min(most, room_in(target.parent)):
                raise StoreFailed(f"{_shown(url)} has {whole} bytes, and there is room for {most}")
            done, found = self._copy(answer, file, _Tally(_shown(url), whole, most, digest, progress))
        if whole is not None and done != whole:
            raise StoreFailed(f"{_shown(url)} ended after {done} of {whole} bytes", fix="Try again.")
        return found

    def _copy(self, answer: IO[bytes], file: IO[bytes], tally: "_Tally") -> tuple[int, str]:
        """How many bytes there were, and their SHA-256."""
        mine = hashlib.sha256()
        theirs = hashlib.new(tally.digest.algorithm) if tally.digest else mine
        done, end = 0, self._clock() + _MOST_S
        while piece := answer.read(_PIECE):
            done += len(piece)
            if done > tally.most:
                raise StoreFailed(f"{tally.what} has more than {tally.most} bytes")
            if self._clock() > end:
                raise StoreFailed(f"{tally.what} takes longer than {_MOST_S / 3600:g} hours")
            mine.update(piece)
            if theirs is not mine:
                theirs.update(piece)
            file.write(piece)
            tally.progress(tally.what, done, tally.whole or 0)
        if tally.digest and theirs.hexdigest() != tally.digest.hex:
            raise StoreFailed(
                f"{tally.what} is not what its digest says: it is "
                f"{tally.digest.algorithm}:{theirs.hexdigest()}, and should be {tally.digest}"
            )
        return done, mine.hexdigest()

    def _followed(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        here, mine = url, dict(headers)
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._asked(here, mine)
            if answer.status not in _REDIRECTS:
                if answer.status != http.HTTPStatus.OK:
                    with answer:
                        raise _refusal(here, answer)
                return answer
            answer.close()
            there = urllib.parse.urljoin(here, answer.headers.get("Location", ""))
            if not _may_follow(here, there):
                raise Refused(f"{_shown(url)} leads to {_shown(there)}, where nobody is followed")
            if origin(here) != origin(there):
                mine = {name: value for name, value in mine.items() if name.lower() != "authorization"}
            here = there
        raise Refused(f"{_shown(url)} leads on and on: {_MOST_REDIRECTS} redirects were followed")

    def _asked(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        if origin(url)[0] not in ("http", "https"):
            raise Refused(f"{_shown(url)} is no URL of HTTP")
        request = urllib.request.Request(url, headers={"User-Agent": "salver", **headers})
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=_QUIET_S)
        except urllib.error.HTTPError as error:
            return error  # type: ignore[return-value]  # it is an answer, too
        return answer


class _Tally(msgspec.Struct, frozen=True):
    """What is known of a download before it comes."""

    what: str
    whole: int | None
    most: int
    digest: Digest | None
    progress: Progress


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are looked at before they are followed."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


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


def _may_follow(here: str, there: str) -> bool:
    scheme, host, _ = origin(there)
    is_fine = bool(host) and there.isascii() and there.isprintable() and len(there) <= 16 << 10
    return is_fine and (scheme == "https" or (scheme == "http" and origin(here)[0] == "http"))


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
    except StoreFailed:
        raise
    except (OSError, EOFError, http.client.HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        if isinstance(error, OSError) and error.filename:
            reason = f"{os.fsdecode(error.filename)}: {error.strerror}"
        raise StoreFailed(f"{_shown(url)} cannot be read: {reason}") from error
