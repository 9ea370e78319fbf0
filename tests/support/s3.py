"""An S3 server in this process, for tests."""

import logging
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class S3:
    """Buckets on a free port of the loopback interface.

    Attributes:
        host: ``host:port``.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        address, port = self._server.get_host_and_port()
        self.host = f"{address}:{port}"
        urllib.request.urlopen(
            f"http://{self.host}/moto-api/reset", b""
        ).close()  # servers share their buckets
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_DEFAULT_REGION"],
        )

    def url(self, path: str) -> str:
        """As it is written on the command line."""
        return f"s3://{self.host}/{path}"

    def put(self, bucket: str, files: Mapping[str, bytes]) -> None:
        """Objects of a bucket, which is made where it is not there."""
        self.client.create_bucket(Bucket=bucket)
        for key, content in files.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def put_folder(self, bucket: str, prefix: str, folder: Path) -> None:
        """Every file of a folder."""
        found = (path for path in folder.rglob("*") if path.is_file())
        self.put(
            bucket, {f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in found}
        )

    def remove(self, bucket: str, *keys: str) -> None:
        """Objects are gone."""
        for key in keys:
            self.client.delete_object(Bucket=bucket, Key=key)

    def stop(self) -> None:
        """Nobody listens any more."""
        self._server.stop()


@contextmanager
def s3_server() -> Iterator[S3]:
    """Use as a context manager."""
    server = S3()
    try:
        yield server
    finally:
        server.stop()
