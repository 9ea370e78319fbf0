"""One real server for all integration tests, with every model of the zoo."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from salver.testing.process import ServerProcess
from zoo import EXAMPLES, write_identity, write_mlp, write_moody, write_two


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Polls its repository; logs JSON, every request included."""
    folder: Path = tmp_path_factory.mktemp("server")
    root = folder / "repository"
    write_mlp(root / "mlp", 1)
    write_two(root)
    write_moody(root)
    for datatype in EXAMPLES:
        write_identity(root, datatype)
    options = ["--log-format", "json", "--access-log", "all"]
    with ServerProcess([root], folder / "log", options) as server:
        yield server.wait_ready()
