"""HTTP connections to servers of others.

The environment's proxy is used if it names one. A name and password in the URL become a header. Link-local
addresses are refused, whatever name leads to them, since clouds hand out credentials there. Redirects are not
followed here.
"""

import base64
import contextlib
import http.client
import ipaddress
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import IO, Any, Final

#: Addresses where clouds hand out credentials, besides the link-local ones.
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))


def is_harmful(address: str) -> bool:
    """Return whether no connection may go to an address.

    >>> [is_harmful(each) for each in ("169.254.169.254", "::ffff:169.254.0.1", "ff02::1")]
    [True, True, True]
    >>> [is_harmful(each) for each in ("10.0.0.1", "::1")]
    [False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    plain = getattr(ip, "ipv4_mapped", None) or ip
    return plain.is_link_local or plain.is_multicast or plain in _METADATA


class HttpCall:
    """One request to a server. Blocking; :meth:`cut` may be called from another thread.

    Args:
        seconds: Longest silence of the server.
        trusted: Who vouches for servers of https; None = the authorities of the system.
    """

    def __init__(self, seconds: float, trusted: ssl.SSLContext | None = None) -> None:
        self._seconds = seconds
        self.trusted = trusted
        self._connection: http.client.HTTPConnection | None = None
        self._is_cut = False

    def __repr__(self) -> str:
        return f"<HttpCall of {self._seconds:g} s>"

    def ask(
        self, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        """Return the response, whatever its status; POST if there is a body.

        Raises:
            OSError: there is no answer in HTTP, or the address is refused.
            ValueError: it is no URL of HTTP.
        """
        plain, mine = without_user(url)
        request = urllib.request.Request(plain, body, {"User-Agent": "salver", **mine, **headers})
        try:
            answer: http.client.HTTPResponse = urllib.request.build_opener(
                _Plain(self), _Secure(self), _NoRedirects
            ).open(request, timeout=self._seconds)
        except urllib.error.HTTPError as error:
            return error  # type: ignore[return-value]  # it is an answer, too
        except urllib.error.URLError as error:
            reason = error.reason
            raise reason if isinstance(reason, OSError) else OSError(reason) from None
        except http.client.HTTPException as error:
            # Its text may be what the server sent, which may repeat the path or the header of the request.
            raise OSError(f"no answer in HTTP: {type(error).__name__}") from None
        return answer

    def cut(self) -> None:
        """End the call that waits for the server."""
        self._is_cut = True
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def opened(self, connection: http.client.HTTPConnection) -> None:
        """Connect.

        Raises:
            OSError: the address is refused.
        """
        self._connection = connection
        address = connection.sock.getpeername()[0]
        if self._is_cut or is_harmful(address):
            connection.close()
            raise OSError(f"{address} is a link-local address, which is not allowed")


def without_user(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL without credentials, and these as headers.

    Raises:
        ValueError: it is no URL of HTTP.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no URL of HTTP")
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    name, _, password = user.partition(":")
    pair = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}"
    plain = urllib.parse.urlunsplit((parts.scheme, host, *parts[2:]))
    return plain, {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, line: HttpCall) -> None:
        super().__init__()
        self._line = line

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        line = self._line

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                line.opened(self)

        return self.do_open(Connection, req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, line: HttpCall) -> None:
        super().__init__()
        self._line = line

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        line = self._line

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                line.opened(self)

        return self.do_open(Connection, req, context=line.trusted)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None
