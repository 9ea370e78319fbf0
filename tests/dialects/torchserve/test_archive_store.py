"""Sources of archives: the store, files, allowed URLs (TS-M1, TS-C2)."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from salver.dialects.torchserve.archive_store import ANY_URL, ArchiveStore, ArchiveStoreConfig, FoundArchive
from salver.words.errors import BadArchive, Conflict, InvalidInput, NoDownload, NoModel, SalverError

CONTENT = b"archive" * 1000


class Remote(http.server.BaseHTTPRequestHandler):
    """Says what its path asks for."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("x-amz-server-side-encryption", "")))
        name = self.path.partition("?")[0]
        if name.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", name.removeprefix("/moved") or "file:///etc/passwd")
            self.end_headers()
            return
        if name.startswith("/none"):
            self.send_error(404)
            return
        self.send_response(200)
        size = {"/short.mar": len(CONTENT) + 1, "/liar.mar": 1 << 50}.get(name, len(CONTENT))
        if name != "/unsaid.mar":
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def remote() -> Iterator[str]:
    Remote.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Remote)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store" / "below").mkdir(parents=True)
    (tmp_path / "store" / "noop.mar").write_text("x")
    (tmp_path / "outside.mar").write_text("x")
    return tmp_path / "store"


def store_of(store: Path | str, *allowed: str, **more: Any) -> ArchiveStore:
    return ArchiveStore(ArchiveStoreConfig(str(store), allowed or ANY_URL, **more))


def left(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir())


@pytest.mark.clause("TS-M1")
def test_files_and_folders_of_the_store(store: Path) -> None:
    assert store_of(store).find("noop.mar") == FoundArchive(store / "noop.mar")
    assert store_of(store).find("below") == FoundArchive(store / "below")
    assert store_of(store, "https://x/.*").find("noop.mar") == FoundArchive(store / "noop.mar")
    assert store_of(store, "https://x/.*").find(str(store / "noop.mar")) == FoundArchive(store / "noop.mar")
    for url in ("/nowhere/noop.mar", "sub/noop.mar", "sub/below/"):  # TorchServe looks at the last part
        assert store_of(store).find(url).path == store / url.strip("/").rpartition("/")[2]


@pytest.mark.clause("TS-M1", "TS-C2")
def test_what_lies_outside_the_store_is_asked_for_by_a_url(store: Path) -> None:
    outside = store.parent / "outside.mar"
    with pytest.raises(NoModel, match=f"Model not found at: {outside}"):
        store_of(store).find(str(outside))
    with pytest.raises(NoModel, match="Model not found at: /etc/passwd"):
        store_of(store).find("/etc/passwd")
    assert store_of(store).find(outside.as_uri()) == FoundArchive(outside)
    with pytest.raises(NoModel, match="does not match any allowed URL"):
        store_of(store, "https://x/.*").find(outside.as_uri())


REFUSED: list[tuple[str, type[SalverError], str]] = [
    ("", NoModel, "empty url"),
    ("none.mar", NoModel, "Model not found at: none.mar"),
    (".", NoModel, "Model not found at: ."),
    ("../outside.mar", NoModel, "Relative path is not allowed in url: ../outside.mar"),
    ("file:///tmp/../etc/x.mar", NoModel, "Relative path is not allowed in url: file:///tmp/../etc/x.mar"),
    ("file:///nothing.mar", NoDownload, "Failed to download archive from: file:///nothing.mar"),
    ("file://other/noop.mar", NoDownload, "Failed to download archive from: file://other/noop.mar"),
    ("ftp://127.0.0.1/none.mar", NoModel, "Model not found at: ftp://127.0.0.1/none.mar"),
    (
        "http://127.0.0.1:9/none.mar",
        NoDownload,
        "Failed to download archive from: http://127.0.0.1:9/none.mar",
    ),
    ("http://127.0.0.1:9/", NoDownload, "Failed to download archive from: http://127.0.0.1:9/"),
    ("http://127.0.0.1:9/.x", NoDownload, "Failed to download archive from: http://127.0.0.1:9/.x"),
    ("http://[bad/none.mar", NoDownload, "Failed to download archive from: http://[bad/none.mar"),
    ("a\nb", NoModel, "Model not found at: 'a\\nb'"),
    ("x" * 9000, NoModel, "Model not found at: "),
    ("x" * 1000, NoModel, "Model not found at: "),
    ("file:///" + "x" * 1000, NoDownload, "Failed to download archive from: "),
    ("file:///a%00b", NoDownload, "Failed to download archive from: "),
]


@pytest.mark.clause("TS-M1", "TS-R21")
@pytest.mark.parametrize(("url", "kind", "text"), REFUSED)
def test_what_is_not_there(url: str, kind: type[SalverError], text: str, store: Path) -> None:
    with pytest.raises(kind) as raised:
        store_of(store).find(url)
    assert raised.value.message.startswith(text)
    assert left(store) == ["below", "noop.mar"]


@pytest.mark.clause("TS-C2")
def test_only_urls_that_match_as_a_whole_are_allowed(store: Path, remote: str) -> None:
    one = store_of(store, r"https://models\.example\.org/.*", rf"{remote}/good/.*")
    outside = store.parent / "outside.mar"
    for url in ("http://example.org/x.mar", outside.as_uri(), f"{remote}/x.mar", f"x{remote}/good/x.mar"):
        with pytest.raises(NoModel) as raised:
            one.find(url)
        is_url = not url.startswith("x")
        assert ("does not match any allowed URL(s)" in raised.value.message) is is_url
    with pytest.raises(NoModel, match="Model not found at"):
        one.find(str(outside))
    assert Remote.asked == []
    assert one.find(f"{remote.upper()}/GOOD/x.mar").is_ours


@pytest.mark.clause("TS-M1")
def test_a_download_lies_in_the_store_and_goes_with_its_registration(store: Path, remote: str) -> None:
    url = f"{remote}/far/remote.mar?X-Amz-Signature=abc"  # presigned: the query is no part of the name
    found = store_of(store).find(url, is_encrypted=True)
    assert found == FoundArchive(store / "remote.mar", is_ours=True)
    assert found.path.read_bytes() == CONTENT
    assert Remote.asked == [("/far/remote.mar?X-Amz-Signature=abc", "aws:kms")]
    with pytest.raises(Conflict, match=r"Model file already exists remote\.mar"):
        store_of(store).find(url)
    store_of(store).discard(FoundArchive(store / "noop.mar"))
    store_of(store).discard(found)
    assert left(store) == ["below", "noop.mar"]
    assert store_of(store).find(f"{remote}/unsaid.mar").path.read_bytes() == CONTENT


@pytest.mark.clause("TS-M1")
@pytest.mark.parametrize("name", ["none.mar", "short.mar", "moved"])
def test_what_cannot_be_downloaded_leaves_nothing(name: str, store: Path, remote: str) -> None:
    with pytest.raises(NoDownload) as raised:
        store_of(store).find(f"{remote}/{name}")
    assert raised.value.message == f"Failed to download archive from: {remote}/{name}"
    assert raised.value.fix
    assert left(store) == ["below", "noop.mar"]


@pytest.mark.clause("TS-M1", "TS-C2")
def test_redirects_lead_where_the_list_allows(store: Path, remote: str) -> None:
    with pytest.raises(NoDownload, match="which is not allowed"):
        store_of(store, rf"{remote}/moved/.*").find(f"{remote}/moved/x.mar")
    assert store_of(store, rf"{remote}/.*").find(f"{remote}/moved/x.mar").path.read_bytes() == CONTENT


@pytest.mark.clause("TS-M1")
@pytest.mark.parametrize("name", ["x.mar", "liar.mar", "unsaid.mar"])
def test_downloads_are_bounded(name: str, store: Path, remote: str) -> None:
    with pytest.raises(BadArchive, match="there is room for 100"):
        store_of(store, most_bytes=100).find(f"{remote}/{name}")
    with pytest.raises(NoDownload, match="takes longer"):
        store_of(store, download_s=-1).find(f"{remote}/x.mar")
    assert left(store) == ["below", "noop.mar"]


@pytest.mark.clause("TS-M1")
def test_what_a_killed_download_left_goes_with_a_later_one(store: Path, remote: str) -> None:
    old, young, other = (store / f".x.mar-{c * 16}.part" for c in "abx")
    for path in (old, young, other):
        path.write_bytes(b"half of it")
        os.utime(path, (1000, 1000))
    os.utime(young)
    store_of(store).find(f"{remote}/x.mar")
    assert [path.exists() for path in (old, young, other)] == [False, True, True]


@pytest.mark.clause("TS-M1")
def test_a_file_that_came_meanwhile_is_not_replaced(
    store: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*args: Any) -> None:
        raise FileExistsError

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(Conflict):
        store_of(store).find(f"{remote}/x.mar")
    assert left(store) == ["below", "noop.mar"]


@pytest.mark.clause("TS-M1")
def test_a_store_may_lie_where_there_are_no_links(
    store: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(source: str, target: Path) -> None:
        if target.name == "late.mar":  # it has come meanwhile
            target.write_bytes(b"another's")
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    assert store_of(store).find(f"{remote}/x.mar").path.read_bytes() == CONTENT
    with pytest.raises(Conflict):
        store_of(store).find(f"{remote}/late.mar")
    assert (store / "late.mar").read_bytes() == b"another's"
    assert left(store) == ["below", "late.mar", "noop.mar", "x.mar"]


@pytest.mark.clause("TS-M1")
def test_without_a_store_there_is_nothing(remote: str, tmp_path: Path) -> None:
    for url in ("noop.mar", f"{remote}/x.mar"):
        with pytest.raises(NoModel, match=r"Model store has not been configured\."):
            store_of("").find(url)
    with pytest.raises(NoDownload, match="No such file"):
        store_of(tmp_path / "none").find(f"{remote}/x.mar")
    with pytest.raises(InvalidInput):
        store_of(tmp_path / "none").everything()
