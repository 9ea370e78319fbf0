"""A download that is cut off goes on where it ended, or says so; and no trickle goes on for ever."""

import hashlib
import io
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from salver.stores import StoreFailed
from salver.stores.sources.downloading import Digest, Download, DownloadRequest, parse_digest
from salver.stores.sources.fetched import silent
from salver.stores.sources.web import Web
from salver.words.errors import LoadFailed

BODY = bytes(range(256)) * 40
DIGEST = parse_digest(f"sha256:{hashlib.sha256(BODY).hexdigest()}")
Answer = Callable[[Mapping[str, str]], bytes]


@contextmanager
def a_server(*answers: Answer) -> Iterator[tuple[str, list[Mapping[str, str]]]]:
    """Gives one answer after the other, and ends the connection after each, wherever that answer ended."""
    asked: list[Mapping[str, str]] = []

    def serve() -> None:
        for answer in answers:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                lines = peer.recv(65536).decode().split("\r\n")[1:]
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
                asked.append(headers)
                peer.sendall(answer(headers))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/m", asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


def whole(most: int, *, etag: str = "", body: bytes = BODY) -> Answer:
    """All of it, but for what comes after so many bytes."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n" + (f"ETag: {etag}\r\n" if etag else "")
    return lambda _: head.encode() + b"\r\n" + body[:most]


def rest(most: int, *, total: int = len(BODY), late: int = 0) -> Answer:
    """What was asked for, but for what comes after so many bytes of it."""

    def answer(headers: Mapping[str, str]) -> bytes:
        start = int(headers["range"].removeprefix("bytes=").rstrip("-")) + late
        head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{total - 1}/{total}\r\n\r\n"
        return head.encode() + BODY[start : start + most]

    return answer


def status(line: str) -> Answer:
    return lambda _: f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode()


def download(
    url: str, folder: Path, digest: Digest | None = DIGEST, **more: float
) -> tuple[str, list[float]]:
    pauses: list[float] = []
    found = Web(sleep=pauses.append).download(url, folder / "m", digest=digest, **more)  # type: ignore[arg-type]
    assert (folder / "m").read_bytes() == BODY
    return found, pauses


def test_what_was_cut_off_goes_on_where_it_ended(tmp_path: Path) -> None:
    with a_server(whole(1000), rest(2000), status("503 Busy"), rest(99999)) as (url, asked):
        found, pauses = download(url, tmp_path)
    assert found == hashlib.sha256(BODY).hexdigest()
    assert [headers.get("range") for headers in asked] == [None, "bytes=1000-", "bytes=3000-", "bytes=3000-"]
    assert pauses == [1.0, 1.0, 2.0]


def test_without_a_digest_the_server_has_to_say_that_it_is_the_same(tmp_path: Path) -> None:
    with a_server(whole(1000, etag='"a"'), rest(99999)) as (url, asked):
        download(url, tmp_path, None)
    assert asked[1]["if-range"] == '"a"'


@pytest.mark.parametrize("etag", ["", 'W/"a"'], ids=["none", "weak"])
def test_where_nobody_says_that_it_is_the_same_it_does_not_go_on(etag: str, tmp_path: Path) -> None:
    with a_server(whole(1000, etag=etag), rest(99999)) as (url, asked):
        with pytest.raises(StoreFailed, match="ended after 1000 of 10240 bytes"):
            download(url, tmp_path, None)
        assert len(asked) == 1


def test_a_server_that_begins_anew_is_followed(tmp_path: Path) -> None:
    with a_server(whole(1000, body=b"x" * 5000, etag='"old"'), whole(99999, etag='"new"')) as (url, _):
        download(url, tmp_path, None)


@pytest.mark.parametrize("second", [rest(9999, total=9999), rest(9999, late=1)], ids=["total", "start"])
def test_another_part_than_was_asked_for_is_refused(second: Answer, tmp_path: Path) -> None:
    problem = "another part than requested"
    with a_server(whole(1000), second) as (url, _), pytest.raises(StoreFailed, match=problem):
        download(url, tmp_path)


def test_parts_that_do_not_fit_are_found_out_by_the_digest(tmp_path: Path) -> None:
    first, problem = whole(1000, body=b"x" * len(BODY)), "is not what its digest says"
    with a_server(first, rest(99999)) as (url, _), pytest.raises(StoreFailed, match=problem):
        download(url, tmp_path)


def test_it_is_given_up_when_nothing_comes_any_more(tmp_path: Path) -> None:
    with a_server(whole(1000), *[rest(0)] * 9) as (url, asked):
        with pytest.raises(StoreFailed, match="ended after 1000 of 10240"):
            download(url, tmp_path)
        assert len(asked) == 6


def test_a_refusal_is_no_interruption(tmp_path: Path) -> None:
    with a_server(whole(1000), status("403 Forbidden"), rest(99999)) as (url, asked):
        with pytest.raises(StoreFailed, match="answers 403"):
            download(url, tmp_path)
        assert len(asked) == 2


def test_a_trickle_ends_with_its_time_though_no_piece_is_ever_full(tmp_path: Path) -> None:
    """Each byte came within the time of one read, so that a read of a whole piece would wait for years."""
    now, sent = [0.0], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nx")
                sent.wait(PATIENCE_S)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def clock() -> float:
            now[0] += 20
            return now[0]

        with pytest.raises(StoreFailed, match="takes longer than 10 seconds"):
            Web(clock).download(f"http://127.0.0.1:{listener.getsockname()[1]}/m", tmp_path / "m", seconds=10)
        sent.set()
        thread.join(PATIENCE_S)


class Full(io.BytesIO):
    def write(self, content: object) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_as_what_it_is() -> None:
    download = Download(DownloadRequest("https://h/m", 1000, 10), Full(), silent, lambda: 0.0)
    with pytest.raises(LoadFailed, match=r"https://h/m cannot be written: No space left on device"):
        download.add(b"x")
