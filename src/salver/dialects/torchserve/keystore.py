"""Conversion of Java key stores to PEM files for the server (TS-C5)."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Final

from salver.dialects.torchserve.tokens import write_private
from salver.words.errors import InvalidInput, Unsupported

_JKS: Final = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")  # of JKS and JCEKS
_MAX_BYTES: Final = 4 << 20


def pem_files(path: str, password: str) -> tuple[str, str]:
    """Return the files of certificates and key of a PKCS #12 file, in a private folder removed at exit.

    Raises:
        InvalidInput: it cannot be read, or holds no key.
        Unsupported: it is of another kind, or no package that reads it is installed.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise InvalidInput(f"keystore: {path} cannot be read: {error.strerror}") from error
    if data.startswith(_JKS):
        raise Unsupported(
            f"keystore: {path} is of the kind JKS, which is Java's own",
            fix=f"keytool -importkeystore -srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12",
        )
    certificates, key = _pem(data, password, path)
    folder = Path(tempfile.mkdtemp(prefix="salver-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_private(folder / "certificate.pem", certificates)
    write_private(folder / "key.pem", key)
    return str(folder / "certificate.pem"), str(folder / "key.pem")


def _pem(data: bytes, password: str, path: str) -> tuple[bytes, bytes]:
    try:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
    except ImportError as error:
        raise Unsupported(
            "keystore: the package 'cryptography' reads PKCS #12 files, and is not installed",
            fix="pip install cryptography; or name PEM files by certificate_file and private_key_file.",
        ) from error
    try:
        key, certificate, more = pkcs12.load_key_and_certificates(data, password.encode())
    except ValueError as error:
        raise InvalidInput(
            f"keystore: {path} cannot be opened: {error}", fix="Check its password, keystore_pass."
        ) from error
    if key is None or certificate is None:
        raise InvalidInput(f"keystore: {path} holds no key with a certificate")
    chain = b"".join([each.public_bytes(Encoding.PEM) for each in (certificate, *more)])
    return chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
