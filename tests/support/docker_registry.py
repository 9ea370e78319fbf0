"""A real OCI registry of this machine (Debian's ``docker-registry``), and what is pushed to it."""

import base64
import hashlib
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from programs import program
from sites import Asked, Page, Site
from waiting import PATIENCE_S, until

from salver.testing.process import free_port

#: Name, password, and the password's bcrypt hash, as ``htpasswd -B`` writes it.
ANN = ("ann", "secret")
_HASH = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_ISSUER = "tests"
INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""


class Registry:
    """Where things are pushed to; ``host`` is as a reference has it."""

    def __init__(self, host: str, authorization: str = "") -> None:
        self.host = host
        self._headers = {"Authorization": authorization} if authorization else {}

    def _send(self, method: str, url: str, body: bytes = b"", kind: str = "application/octet-stream") -> Any:
        headers = {**self._headers, "Content-Type": kind}
        return urllib.request.urlopen(
            urllib.request.Request(url, body, headers, method=method), timeout=PATIENCE_S
        )

    def blob(self, name: str, content: bytes, kind: str, **annotations: str) -> dict[str, Any]:
        """Push one; its descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        with self._send("POST", f"http://{self.host}/v2/{name}/blobs/uploads/") as answer:
            place = urllib.parse.urljoin(answer.url, answer.headers["Location"])
        joint = "&" if "?" in place else "?"
        self._send("PUT", f"{place}{joint}digest={urllib.parse.quote(digest)}", content).close()
        said = {"mediaType": kind, "digest": digest, "size": len(content)}
        return {**said, "annotations": annotations} if annotations else said

    def manifest(self, name: str, tag: str, said: Mapping[str, Any], kind: str = MANIFEST) -> dict[str, Any]:
        """Push one; its descriptor."""
        content = json.dumps({"schemaVersion": 2, "mediaType": kind, **said}).encode()
        self._send("PUT", f"http://{self.host}/v2/{name}/manifests/{tag}", content, kind).close()
        return {
            "mediaType": kind,
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size": len(content),
        }


def basic(login: tuple[str, str]) -> str:
    return f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"


@contextmanager
def a_registry(folder: Path, auth: str = "", authorization: str = "") -> Iterator[Registry]:
    """Started, and ended with its process.

    Args:
        auth: Of its configuration: who may ask.
        authorization: With which things are pushed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "config.yml").write_text(_CONFIG.format(root=folder, port=port, auth=auth))
    process = subprocess.Popen(
        [program("docker-registry"), "serve", str(folder / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}/v2/"))
        yield Registry(f"127.0.0.1:{port}", authorization)
    finally:
        process.kill()
        process.wait()


@contextmanager
def one_with_passwords(folder: Path) -> Iterator[Registry]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(f"{ANN[0]}:{_HASH}\n")
    auth = f"auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}"
    with a_registry(folder, auth, basic(ANN)) as registry:
        yield registry


@contextmanager
def one_with_tokens(folder: Path, site: Site) -> Iterator[Registry]:
    """Tokens are given out by ``site``, at ``/token``, to whoever asks, for what they ask."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf = authority.issue_cert("tokens.example", key_type=trustme.KeyType.RSA)

    def token(path: str, asked: Asked) -> Page:
        scope = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))["scope"]
        return Page(json.dumps({"token": _token(leaf, scope)}).encode())

    site.pages["/token"] = token
    said = f"realm: {site.url}/token, service: tests, issuer: {_ISSUER}, rootcertbundle: {folder}/ca.pem"
    authorization = f"Bearer {_token(leaf, 'repository:mine/m:pull,push')}"
    with a_registry(folder, f"auth: {{token: {{{said}}}}}", authorization) as registry:
        yield registry


def _token(leaf: trustme.LeafCert, scope: str) -> str:
    """A JWT as Distribution's token specification has it."""
    pem = leaf.private_key_pem.bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, RSAPrivateKey)
    der = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
    kind, name, actions = scope.split(":")
    now = int(time.time())
    access = [{"type": kind, "name": name, "actions": actions.split(",")}]
    times = {"exp": now + 300, "nbf": now - 60, "iat": now}
    claims = {"iss": _ISSUER, "sub": "ann", "aud": "tests", "jti": "1", "access": access, **times}
    header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
    signed = ".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{_url64(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=PATIENCE_S).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
