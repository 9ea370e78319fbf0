"""What a server does not do: write files, call home, or leave something behind."""

import re
import signal
from contextlib import suppress
from pathlib import Path

from forked_hosts import EXECUTED
from waiting import until
from zoo import ask_moody, infer_body, write_mlp, write_moody

from salver.testing.process import ServerProcess


def strangers(server: ServerProcess) -> list[str]:
    """Remote ends, other than the loopback interface, of the family's TCP sockets, in hexadecimal."""
    found = []
    for pid in server.family():
        targets = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                targets.append(str(link.readlink()))
        inodes = set(re.findall(r"socket:\[(\d+)\]", " ".join(targets)))
        for table in ("tcp", "tcp6"):
            rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
            found += [row[2] for row in rows if row[9] in inodes]
    loopback = ("0100007F:", "00000000:", "0" * 32 + ":")
    return [end for end in found if not end.startswith(loopback)]


def test_nothing_is_written_and_nobody_is_called(tmp_path: Path) -> None:
    root, home, work = (tmp_path / name for name in ("repository", "home", "work"))
    home.mkdir()
    work.mkdir()
    write_mlp(root / "mlp", 1)
    write_moody(root)
    env = {
        name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR")
    }
    env["PYTHONDONTWRITEBYTECODE"] = ""  # whatever this machine has
    before = sorted(path for path in root.rglob("*"))
    with ServerProcess([root], tmp_path / "log", env=env, cwd=work) as server:
        server.wait_ready()
        assert server.post("/v2/models/mlp/infer", infer_body())[0] == 200
        assert ask_moody(server, "ok")[0] == 200
        assert strangers(server) == []
        assert list(home.rglob("*")) == []
    assert list(home.rglob("*")) == []
    assert list(work.rglob("*")) == []
    assert sorted(path for path in root.rglob("*")) == before


def test_no_process_outlives_a_server_that_is_killed(tmp_path: Path) -> None:

    write_moody(tmp_path / "repository")
    server = ServerProcess([tmp_path / "repository"], tmp_path / "log", env=EXECUTED)
    server.start()
    server.wait_ready()
    family = server.family()
    assert len(family) > 1
    server.signal(signal.SIGKILL)
    until(lambda: not any(map(_runs, family)), lambda: [pid for pid in family if _runs(pid)])
    assert server.wait() == -signal.SIGKILL


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
