"""Facts about the other end of a connection, which stand behind the headers of its requests.

Their names begin with a colon, so that no caller can send them.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from salver.features.identity.rules import Addresses, Proxy
from salver.transport.access_check import RawHeaders
from salver.transport.http1_head import Headers

#: The client's certificate (DER), and the address of a trusted proxy.
CERTIFICATE: Final = b":certificate"
PROXY: Final = b":proxy"
_MOST_VALUE: Final = 1024
_KINDS: Final[Mapping[type, str]] = {
    x509.DNSName: "DNS",
    x509.UniformResourceIdentifier: "URI",
    x509.RFC822Name: "email",
    x509.IPAddress: "IP",
}


class Proxies:
    """Proxies that are trusted, by address."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._proxies = [
            (
                Addresses(proxy.addresses),
                {name.lower().encode(): claim for claim, name in proxy.headers.items()},
            )
            for proxy in proxies
        ]

    def __repr__(self) -> str:
        return f"<Proxies, {len(self._proxies)}>"

    def find(self, address: str) -> Mapping[bytes, str] | None:
        """Return the headers that a proxy sets, with their claims; None = its address is not trusted."""
        return next((headers for addresses, headers in self._proxies if addresses.has(address)), None)


def facts(transport: asyncio.BaseTransport, proxies: Proxies) -> Headers:
    """Return what a connection tells about its other end."""
    found = []
    secure = transport.get_extra_info("ssl_object")
    if secure is not None and (certificate := secure.getpeercert(binary_form=True)):
        found.append((CERTIFICATE, certificate))
    address = _address(transport)
    if address is not None and proxies.find(address) is not None:
        found.append((PROXY, address.encode()))
    return tuple(found)


def _address(transport: asyncio.BaseTransport) -> str | None:
    """Return the address of the other end; empty = it came by a UNIX socket, None = it is gone already."""
    peer, sock = transport.get_extra_info("peername"), transport.get_extra_info("socket")
    if isinstance(peer, tuple):
        return str(peer[0])
    return "" if sock is not None and sock.family == socket.AF_UNIX else None


def claims_of_headers(raw: RawHeaders, names: Mapping[bytes, str]) -> dict[str, Any] | None:
    """Return the claims that a trusted proxy makes; None = none, or one twice.

    A header that is there twice was sent by a caller, too, and passed on.

    >>> names = {b"x-user": "sub", b"x-groups": "groups"}
    >>> claims_of_headers([(b"x-user", b"ann"), (b"x-groups", b"a, b")], names)
    {'sub': 'ann', 'groups': ['a', 'b']}
    """
    found: dict[str, Any] = {}
    for name, value in raw:
        claim = names.get(name)
        if claim is None:
            continue
        if claim in found or len(value) > _MOST_VALUE:
            return None
        text = value.decode("latin-1").strip()
        found[claim] = text if claim == "sub" else [part.strip() for part in text.split(",")]
    return found if found.get("sub") else None


def claims_of_certificate(der: bytes) -> dict[str, Any] | None:
    """Return the claims of a certificate that TLS has verified; None = it cannot be read.

    ``not_after`` is when it expires, in Unix seconds.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = _alternatives(certificate)
        subject = certificate.subject.rfc4514_string()
        common = _values(certificate, NameOID.COMMON_NAME)
        return {
            "sub": subject or next(iter(names), ""),
            "subject": subject,
            "cn": common,
            "o": _values(certificate, NameOID.ORGANIZATION_NAME),
            "ou": _values(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME),
            "san": names,
            "serial": f"{certificate.serial_number:x}",
            "fingerprint": certificate.fingerprint(SHA256()).hex(),
            "not_after": int(certificate.not_valid_after_utc.timestamp()),
        }
    except (ValueError, TypeError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension):
        return None


def _values(certificate: x509.Certificate, name: x509.ObjectIdentifier) -> list[str]:
    return [str(each.value) for each in certificate.subject.get_attributes_for_oid(name)]


def _alternatives(certificate: x509.Certificate) -> list[str]:
    """Return the subject's alternative names as OpenSSL writes them, such as ``DNS:web.example.org``."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [f"{_KINDS[type(each)]}:{each.value}" for each in found if type(each) in _KINDS]
