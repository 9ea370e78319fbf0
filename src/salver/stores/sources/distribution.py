"""Manifests and blobs of OCI registries.

By the distribution specification, v1.1: a manifest by tag or digest, blobs by digest, each verified.
Authentication is Basic, or a bearer token from the registry's token server, obtained with a password or an
identity token (OAuth 2.0).
"""

import base64
import hashlib
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from salver.encoding.lenient import mapping
from salver.stores import StoreFailed
from salver.stores.sources.downloading import Digest, parse_digest
from salver.stores.sources.fetched import Progress
from salver.stores.sources.web import HttpError, Web, origin, parse_object
from salver.words.errors import InvalidInput

T = TypeVar("T")
INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    *sorted(INDEXES),
)
#: Names of Docker Hub, and the host that answers for it.
DOCKER_IO: Final = "docker.io"
_DOCKER_HUB: Final = "registry-1.docker.io"
_MOST_MANIFEST: Final = 4 << 20
_MOST_SIZE: Final = 1 << 50
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_REFERENCE: Final = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)"
    r"/(?P<name>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha(?:256|512):[0-9a-f]+))?",
    re.ASCII,
)
_PARAMETER: Final = re.compile(r'([A-Za-z]+)="([^"]*)"', re.ASCII)


class Reference(msgspec.Struct, frozen=True):
    """Address in a registry; ``digest`` takes precedence over ``tag``."""

    host: str
    name: str
    tag: str = "latest"
    digest: Digest | None = None

    @property
    def base(self) -> str:
        """URL of the repository. A registry of this machine itself needs no TLS."""
        host = self.host
        if self.host == DOCKER_IO:
            host = _DOCKER_HUB
        bare = host
        if not host.endswith("]"):
            bare = host.rpartition(":")[0] or host
        return f"{'http' if bare in _LOOPBACK else 'https'}://{host}/v2/{self.name}"


def parse_reference(text: str) -> Reference:
    """Parse ``host/name:tag`` or ``host/name@sha256:…``.

    Raises:
        InvalidInput: it is none.

    >>> parse_reference("localhost:5000/a/b:v1").base
    'http://localhost:5000/v2/a/b'
    """
    match = _REFERENCE.fullmatch(text) if len(text) <= 512 else None
    digest = None
    if match and match["digest"]:
        digest = parse_digest(match["digest"])
    if match is None or (match["digest"] and digest is None):
        raise InvalidInput(
            f"oci://{text[:512]} names nothing in a registry",
            fix="Write oci://host/name:tag, or oci://host/name@sha256:….",
        )
    return Reference(match["host"], match["name"], match["tag"] or "latest", digest)


class Descriptor(msgspec.Struct, frozen=True):
    """Entry of a blob in a manifest, or of a manifest in an index."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, Any]
    platform: Mapping[str, Any]


def descriptor(value: Any, where: str) -> Descriptor:
    """Parse a descriptor.

    Raises:
        StoreFailed: it is none.
    """
    said: Mapping[str, Any] = mapping(value)
    digest, size, kind = parse_digest(said.get("digest")), said.get("size"), said.get("mediaType")
    is_fine = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= _MOST_SIZE
    if digest is None or not is_fine or not isinstance(kind, str):
        raise StoreFailed(f"{where} describes a blob by no type, digest and size: {str(value)[:200]}")
    some = (said.get(key) for key in ("annotations", "platform"))
    annotations, platform = map(mapping, some)
    return Descriptor(kind, digest, int(said["size"]), annotations, platform)


#: User name for a password that is an identity token.
IDENTITY: Final = "<token>"
#: Name and password for a registry's host, or None.
Credentials = Callable[[str], tuple[str, str] | None]


class Distribution:
    """A repository of a registry. Blocking."""

    def __init__(self, web: Web, reference: Reference, credentials: Credentials) -> None:
        self._web = web
        self.reference = reference
        self._credentials = credentials
        self._authorization: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Distribution {self.reference.host}/{self.reference.name}>"

    def manifest(self, digest: Digest | None) -> tuple[Mapping[str, Any], Digest]:
        """Return a manifest, by digest or (None) by the reference's tag, and its digest.

        Raises:
            StoreFailed: it cannot be fetched, or does not match the digest.
        """
        wanted = digest or self.reference.digest
        url = f"{self.reference.base}/manifests/{wanted or self.reference.tag}"
        headers = {"Accept": ", ".join(_MANIFESTS)}
        content, told = self._authorized(
            lambda mine: self._web.content(url, {**headers, **mine}, _MOST_MANIFEST)
        )
        wanted = wanted or parse_digest(told.get("docker-content-digest"))
        found = Digest("sha256", hashlib.sha256(content).hexdigest())
        if wanted is not None:
            found = Digest(wanted.algorithm, hashlib.new(wanted.algorithm, content).hexdigest())
            if found != wanted:
                raise StoreFailed(f"{url} is not what its digest says: it is {found}, and should be {wanted}")
        return parse_object(content, url), found

    def blob(self, wanted: Descriptor, target: Path, progress: Progress) -> None:
        """Write a blob into a new file.

        Raises:
            StoreFailed: it cannot be fetched, or does not match its digest.
        """
        url = f"{self.reference.base}/blobs/{wanted.digest}"

        def load(mine: Mapping[str, str]) -> str:
            target.unlink(missing_ok=True)
            return self._web.download(
                url, target, progress, digest=wanted.digest, size=wanted.size, headers=mine
            )

        self._authorized(load)

    def _authorized(self, ask: Callable[[Mapping[str, str]], T]) -> T:
        """Send a request, and once more with credentials if the registry demands them."""
        try:
            return ask(self._authorization)
        except HttpError as error:
            if error.status != 401 or not error.challenge:
                raise
            self._authorization = {"Authorization": self._answer(error)}
            return ask(self._authorization)

    def _answer(self, refused: HttpError) -> str:
        scheme, _, rest = refused.challenge.partition(" ")
        name, password = self._credentials(self.reference.host) or ("", "")
        identity = password if name == IDENTITY else ""
        pair = base64.b64encode(f"{name}:{password}".encode()).decode()
        basic = ""
        if (name or password) and not identity:
            basic = f"Basic {pair}"
        if scheme.lower() == "basic":
            if not basic:
                raise HttpError(
                    refused.message, 401, fix=f"Log in, as with: docker login {self.reference.host}"
                ) from refused
            return basic
        said = dict(_PARAMETER.findall(rest))
        if scheme.lower() != "bearer" or not said.get("realm"):
            raise HttpError(
                f"{refused.message}; it asks for {scheme[:40]!r}, which is not known"
            ) from refused
        return f"Bearer {self._token(said, basic, identity)}"

    def _token(self, said: Mapping[str, str], basic: str, identity: str) -> str:
        realm = said["realm"]
        if origin(realm)[0] != "https" and not self.reference.base.startswith("http:"):
            raise HttpError(f"{self.reference.host} requires a token from {realm[:200]}, which is not https")
        query = {"service": said.get("service", ""), "scope": f"repository:{self.reference.name}:pull"}
        if identity:
            form = {"grant_type": "refresh_token", "refresh_token": identity, "client_id": "salver"}
            found = self._web.posted(realm, {**form, **query})
        else:
            url = f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(query)}"
            found = self._web.json(url, {"Authorization": basic} if basic else {})
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise StoreFailed(f"{realm[:200]} returns no token")
        return token
