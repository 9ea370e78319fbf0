"""Triton's forms of URLs, and whose credentials go with which (TR-L2, TR-F2)."""

import json
from pathlib import Path

import pytest

from salver.stores import Copies, opening
from salver.stores.address import filesystem_options, mount_of, parse_address
from salver.words.errors import InvalidInput, MissingExtra

FORMS = [
    ("s3://bucket", "bucket", "", ""),
    ("s3://bucket/a/b/", "bucket/a/b", "", ""),
    ("s3://store.local:9000/bucket/a", "bucket/a", "http://store.local:9000", ""),
    ("s3://http://10.0.0.1:9000/bucket/a", "bucket/a", "http://10.0.0.1:9000", ""),
    ("s3://https://store.local:443/bucket", "bucket", "https://store.local:443", ""),
    ("s3://https://store.local/bucket/a", "bucket/a", "https://store.local", ""),
    ("s3://[::1]:9000/bucket", "bucket", "http://[::1]:9000", ""),
    ("gs://bucket/a", "bucket/a", "", ""),
    ("as://account/container/a", "container/a", "", "account"),
    ("as://account.blob.core.windows.net/container", "container", "", "account"),
]
WRONG = [
    ("s3://", "names no bucket"),
    ("s3://host:9000", "names no bucket"),
    ("s3://https://host:9000/", "names no bucket"),
    ("s3://bucket//a", "names no bucket"),
    ("s3://bucket/./a", "names no bucket"),
    ("s3://bucket/../a", "leads out of the store"),
    ("s3://bucket/a\nb", "names no bucket"),
    ("as://account", "names no bucket"),
    ("ftp://host/a", "unknown scheme ftp://"),
]


@pytest.mark.clause("TR-L2")
@pytest.mark.parametrize(("url", "root", "endpoint", "account"), FORMS)
def test_what_a_url_names(url: str, root: str, endpoint: str, account: str) -> None:
    found = parse_address(url)
    assert (found.root, found.endpoint, found.account) == (root, endpoint, account)
    assert found.scheme == url[:2]


@pytest.mark.clause("TR-F2")
@pytest.mark.parametrize(("url", "reason"), WRONG)
def test_what_names_nothing_is_refused_by_name(url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_address(url)


def s3_of(
    url: str, environment: dict[str, str] | None = None, credentials: object = None
) -> dict[str, object]:
    content = b"" if credentials is None else json.dumps(credentials).encode()
    return filesystem_options(parse_address(url), environment or {}, content)


@pytest.mark.clause("TR-L2")
def test_the_longest_prefix_has_the_credentials() -> None:
    table = {
        "": {"key_id": "any", "secret_key": "s", "region": "r0", "session_token": "", "profile": ""},
        "s3://bucket": {"key_id": "bucket", "secret_key": "s"},
        "s3://bucket/models": {"key_id": "models", "secret_key": "s", "session_token": "t", "profile": "p"},
        "s3://host:1/bucket": {"key_id": "host", "secret_key": "s"},
    }
    keys = {
        "s3://other": "any",
        "s3://bucket": "bucket",
        "s3://bucket-2/a": "any",
        "s3://bucket/a": "bucket",
        "s3://bucket/models/a": "models",
        "s3://host:1/bucket/a": "host",
    }
    assert {url: s3_of(url, credentials={"s3": table})["key"] for url in keys} == keys
    whole = s3_of("s3://bucket/models", credentials={"s3": table})
    assert (whole["token"], whole["profile"]) == ("t", "p")
    assert s3_of("s3://other", credentials={"s3": table})["client_kwargs"] == {"region_name": "r0"}


@pytest.mark.clause("TR-L2")
def test_without_an_entry_the_environment_counts() -> None:
    options = s3_of("s3://host:1/bucket", {"AWS_DEFAULT_REGION": "eu"}, {"gs": {}})
    assert "key" not in options
    assert options["client_kwargs"] == {"region_name": "eu", "endpoint_url": "http://host:1"}
    google, azure = parse_address("gs://b"), parse_address("as://acc/c")
    assert filesystem_options(google, {}).get("token") is None
    assert filesystem_options(google, {"GOOGLE_APPLICATION_CREDENTIALS": "/k"})["token"] == "/k"
    assert filesystem_options(google, {}, b'{"gs": {"": "/other"}}')["token"] == "/other"
    assert filesystem_options(azure, {})["anon"] is False
    named = filesystem_options(azure, {"AZURE_STORAGE_ACCOUNT": "x", "AZURE_STORAGE_KEY": "k"})
    assert (named["account_name"], named["account_key"]) == ("acc", "k")
    entry = b'{"as": {"as://acc/c": {"account_str": "y", "account_key": "z"}}}'
    assert filesystem_options(azure, {}, entry)["account_name"] == "y"


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"s3": 1}', b'{"s3": {"": {"key_id": 1}}}', b'{"s3": {"": "k"}}']
)
def test_a_credential_file_of_another_shape_is_refused_and_not_repeated(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="TRITON_CLOUD_CREDENTIAL_PATH") as caught:
        filesystem_options(parse_address("s3://bucket"), {}, content)
    assert "key_id': 1" not in str(caught.value)


@pytest.mark.clause("TR-L2")
def test_where_copies_lie(tmp_path: Path) -> None:
    address = parse_address("s3://bucket")
    assert mount_of(address, {}) is None
    assert mount_of(address, {"TRITON_AWS_MOUNT_DIRECTORY": str(tmp_path)}) == tmp_path
    with pytest.raises(InvalidInput, match="TRITON_AWS_MOUNT_DIRECTORY"):
        mount_of(address, {"TRITON_AWS_MOUNT_DIRECTORY": str(tmp_path / "none")})


def test_a_store_whose_package_is_not_there_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(opening.importlib, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"salver\[gcs\]"):
        opening.open_store("gs://bucket", Copies(), {})


def test_a_credential_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        opening.open_store("s3://bucket", Copies(), {"TRITON_CLOUD_CREDENTIAL_PATH": str(tmp_path / "no")})
