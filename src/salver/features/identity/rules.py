"""File of identities: who vouches for callers, and the table that maps claims to rights. Pure.

Claims come from a JWT, from a certificate (``subject``, ``cn``, ``o``, ``ou``, ``san``, ``serial``,
``fingerprint``), or from the headers of a trusted proxy. The first row of the table that matches decides.
"""

import functools
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from salver.features.access.limits import LimitRules, Limits
from salver.features.access.scopes import Scopes
from salver.kernel.serving.standing import ANY_TENANT, MAX_PRIORITY, MAX_TENANT
from salver.words.errors import InvalidInput
from salver.words.messages import Service, Standing

Claims = Mapping[str, Any]
Origin = Literal["jwt", "certificate", "proxy"]
#: Algorithms with a public key. Those with a shared secret are not accepted: who can check such a token can
#: make one.
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_FIELD: Final = "--identity-file"
_TEMPLATE: Final = re.compile(r"\{([^{}]+)\}")
#: Claims of which each word counts (RFC 8693, section 4.2).
_OF_WORDS: Final = ("scope", "scp")
_MOST_LETTERS: Final = 128
#: Most letters of a claim that is compared.
_MOST_COMPARED: Final = 1024


class Issuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Issuer of JWTs.

    Attributes:
        issuer: Value of the claim ``iss``.
        audience: Values of ``aud``, one of which a token must have.
        algorithms: Accepted algorithms.
        jwks: File of its public keys, or URL of them.
        ca: PEM file of the authorities that may vouch for the URL's host; empty = those of the system.
    """

    issuer: Annotated[str, msgspec.Meta(min_length=1)]
    audience: str | tuple[str, ...]
    algorithms: tuple[str, ...]
    jwks: str
    ca: str = ""

    @property
    def audiences(self) -> tuple[str, ...]:
        """Accepted values of ``aud``."""
        return (self.audience,) if isinstance(self.audience, str) else self.audience


class Proxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Proxy that has checked who its callers are.

    Attributes:
        addresses: Addresses and ranges from which it connects; ``unix`` = a UNIX socket.
        headers: Header by the name of the claim that it becomes; ``sub`` names the caller.
    """

    addresses: tuple[str, ...]
    headers: dict[str, str]


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Row of the table.

    Attributes:
        source: Origin of the claims; empty = any.
        match: Patterns by claim, each of which must match; a claim with several values needs one that does.
        name, tenant: Name of the caller and tenant of its requests; ``{CLAIM}`` stands for a claim.
        scopes, limits, priority, service_class: See :class:`~salver.features.access.keys_file.KeyRecord`.
    """

    scopes: tuple[str, ...]
    source: Literal["", "jwt", "certificate", "proxy"] = ""
    match: dict[str, str | tuple[str, ...]] = {}
    name: str = "{sub}"
    tenant: str = ""
    limits: LimitRules | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 0
    service_class: Service = "normal"


class IdentityFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of the file."""

    issuer: tuple[Issuer, ...] = ()
    proxy: tuple[Proxy, ...] = ()
    identity: tuple[Row, ...] = ()


class Person(NamedTuple):
    """Caller as a row describes it."""

    name: str
    row: Row
    standing: Standing


def parse(text: str, name: str) -> IdentityFile:
    """Return the content of a file.

    Args:
        name: Name of the file, for the error.

    Raises:
        InvalidInput: it is wrong; names the place.
    """
    try:
        found = msgspec.convert(tomllib.loads(text), IdentityFile)
        _check(found)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, InvalidInput) as error:
        raise InvalidInput(f"{name} is no file of identities: {error}", field=_FIELD) from error
    return found


def _check(file: IdentityFile) -> None:
    names = [issuer.issuer for issuer in file.issuer]
    if len(set(names)) < len(names):
        raise InvalidInput("two issuers have the same name")
    for issuer in file.issuer:
        if not issuer.audiences or not all(issuer.audiences):
            raise InvalidInput(f"the issuer {issuer.issuer!r} needs an audience")
        for algorithm in issuer.algorithms:
            if algorithm not in ALGORITHMS:
                raise InvalidInput(
                    f"{algorithm!r} is not accepted from {issuer.issuer!r}",
                    fix=f"One of {', '.join(ALGORITHMS)}.",
                )
        if not issuer.algorithms or not issuer.jwks:
            raise InvalidInput(f"the issuer {issuer.issuer!r} needs algorithms and jwks")
    for proxy in file.proxy:
        Addresses(proxy.addresses)
        if "sub" not in proxy.headers:
            raise InvalidInput(
                'a proxy needs the header that names the caller, as headers = { sub = "x-user" }'
            )
    if not file.identity:
        raise InvalidInput("without [[identity]] nobody has any right")
    for row in file.identity:
        Scopes(row.scopes)
        if row.limits is not None:
            Limits(row.limits)


class Addresses:
    """Addresses and ranges of them.

    Raises:
        InvalidInput: one is malformed.

    >>> found = Addresses(("10.0.0.0/8", "::1"))
    >>> [found.has(address) for address in ("10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1", "::1", "")]
    [True, True, False, True, False]
    """

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._has_unix = "unix" in texts
        try:
            self._ranges = [ipaddress.ip_network(text) for text in texts if text != "unix"]
        except ValueError as error:
            raise InvalidInput(f"addresses of a proxy: {error}") from error
        if not texts:
            raise InvalidInput("a proxy needs addresses")
        self.has = functools.lru_cache(256)(self._has)

    def _has(self, text: str) -> bool:
        """Return whether an address is among them; empty = a UNIX socket."""
        if not text:
            return self._has_unix
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in each for each in self._ranges)


class Table:
    """Rows in their order."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self._rows = [(row, _conditions(row)) for row in rows]

    def __repr__(self) -> str:
        return f"<Table of {len(self._rows)} rows>"

    def find(self, source: Origin, claims: Claims) -> Person | None:
        """Return the caller with these claims; None = no row is meant for it."""
        for row, conditions in self._rows:
            if row.source in ("", source) and all(holds(claims) for holds in conditions):
                return _person(row, claims)
        return None


def _person(row: Row, claims: Claims) -> Person | None:
    """Return the caller by a row; None = a claim that the row puts in is missing or odd."""
    name, tenant = _filled(row.name, claims), _filled(row.tenant, claims)
    if not name or tenant is None or len(tenant) > MAX_TENANT:
        return None
    if row.tenant != ANY_TENANT and ANY_TENANT in tenant:  # no claim may stand for all tenants
        return None
    return Person(name, row, Standing(tenant, row.priority, row.service_class))


def _filled(template: str, claims: Claims) -> str | None:
    """Return a text with claims put in; None = one is no short text of visible ASCII."""
    values: list[str] = []

    def fill(found: re.Match[str]) -> str:
        value = _claim(claims, found[1])
        text = value if isinstance(value, str) else ""
        values.append(text)
        return text

    text = _TEMPLATE.sub(fill, template)
    is_plain = all(value and value.isascii() and value.isprintable() for value in values)
    return text if is_plain and len(text) <= _MOST_LETTERS else None


def _conditions(row: Row) -> list[Callable[[Claims], bool]]:
    found: list[Callable[[Claims], bool]] = []
    for name, patterns in row.match.items():
        several = (patterns,) if isinstance(patterns, str) else patterns
        expression = "|".join(".*".join(map(re.escape, each.split("*"))) for each in several)
        found.append(functools.partial(_holds, name, re.compile(expression, re.DOTALL)))
    return found


def _holds(name: str, pattern: re.Pattern[str], claims: Claims) -> bool:
    values = _texts(name, _claim(claims, name))
    return any(len(text) <= _MOST_COMPARED and pattern.fullmatch(text) is not None for text in values)


def _claim(claims: Claims, name: str) -> object:
    """Return a claim, or one inside of others, as ``realm_access.roles``; None = there is none."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def _texts(name: str, value: object) -> Iterator[str]:
    """Yield the values of a claim."""
    match value:
        case str():
            yield value
            if name in _OF_WORDS:
                yield from value.split()
        case bool():
            yield "true" if value else "false"
        case int():
            yield str(value)
        case list() | tuple():
            yield from (each for each in value if isinstance(each, str))
