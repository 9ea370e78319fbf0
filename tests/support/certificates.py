"""Certificates of a server on this machine."""

from pathlib import Path

import trustme


def files_of(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Certificate and key of a server on this machine."""
    own = authority.issue_cert("127.0.0.1")
    own.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in own.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder / "cert.pem", folder / "key.pem"
