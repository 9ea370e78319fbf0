"""Is the documentation true?

Runs the snippets that a page marks, checks links between pages and the files that pages name, and that
no page is left out of the navigation. A mark is an HTML comment above a fenced block:

* ``<!-- test -->``: run it (python or bash), after the page's earlier ones, in the same empty folder;
* ``<!-- test: serve -->``: start it in the background and wait until the server is ready;
* ``<!-- output -->``: the block before must have printed this; ``…`` stands for anything.
"""

import os
import re
import runpy
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import fork_server
import pytest
from programs import shell
from waiting import PATIENCE_S

from salver.testing.process import free_port

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [
    *PAGES,
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
MARKED = re.compile(r"^<!-- (test|test: serve|output) -->\n+```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`((?:src|docs|tests|requirements|benchmarks|examples|scripts)/[\w./-]+)`")
READY_WITHIN_S = 60
NUMBER = re.compile(r"\d+")
PORTS = (8000, 8001, 8002, 8080, 8500, 8501, 8081, 8082, 7070, 7071)


class Snippet(NamedTuple):
    """A marked block: what to do with it, in which language, and its text."""

    mark: str
    language: str
    text: str


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def snippets(page: Path) -> list[Snippet]:
    return [Snippet(*match.groups()) for match in MARKED.finditer(page.read_text())]


TESTED = [page for page in TEXTS if snippets(page)]


class Reader:
    """Does what a page says, in a folder of its own, on ports of its own.

    Args:
        modules: What the processes that it starts have imported already, besides Salver.
    """

    def __init__(self, folder: Path, modules: tuple[str, ...]) -> None:
        self._folder = folder
        self._ports = {str(port): str(free_port()) for port in PORTS}
        self._servers: list[subprocess.Popen[bytes]] = []
        commands = folder / ".bin"
        commands.mkdir()
        fork_server.write_command(commands, modules=modules)
        self._python = fork_server.write_command(commands, fork_server.SNIPPET, modules)
        path = os.pathsep.join(
            map(str, (commands, Path(sys.executable).parent, ROOT / ".envs" / "helm", os.environ["PATH"]))
        )
        for name in ("examples", "deploy"):  # as in a clone of the repository
            (folder / name).symlink_to(ROOT / name)
        (folder / ".tmp").mkdir()  # where one server of TorchServe's kind may note its process
        # TensorFlow without Keras, which no snippet asks for, is half of the import
        own = {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(folder / ".tmp")}
        # Offline, the client of Hugging Face refuses to ask servers of this machine, too.
        own |= {"TF_USE_LEGACY_KERAS": "1", "HF_HUB_OFFLINE": "0", "XDG_DATA_HOME": str(folder / ".data")}
        self._environment = {**os.environ, **own}
        # Leads the process group of all that the page starts, for as long as the page is read.
        self._leader = subprocess.Popen(["sleep", "infinity"], process_group=0)

    def follow(self, page: list[Snippet]) -> None:
        printed = ""
        for snippet in page:
            text = snippet.text
            text = NUMBER.sub(lambda number: self._ports.get(number[0], number[0]), text)
            if snippet.mark == "output":
                pattern = r".*?".join(re.escape(part.strip()) for part in text.strip().split("…"))
                assert re.search(pattern, printed, re.S), f"expected\n{text}\nbut it printed\n{printed}"
            elif snippet.mark == "test: serve":
                self._serve(text)
            else:
                printed = self._run(snippet.language, text)

    def _run(self, language: str, text: str) -> str:
        command = ["bash", "-euc", shell(text)]
        if language == "python":
            command = [str(self._python), text]
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            process_group=self._leader.pid,
        )
        assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _serve(self, text: str) -> None:
        http, grpc, metrics, inference, tf_grpc, tf_rest, *_ = self._ports.values()
        flags, path = f"--port {http}", "/v2/health/ready"
        if "--compat triton" in text:
            flags = f"--http-port {http} --grpc-port {grpc} --metrics-port {metrics}"
        if "--compat tensorflow-serving" in text:
            http, flags = tf_rest, f"--port={tf_grpc} --rest_api_port={tf_rest}"
        headers = {}
        if "--keys-file" in text or (self._folder / "me.key").exists():  # readiness needs a key, too
            headers["x-api-key"] = (self._folder / "me.key").read_text().strip()
        if "--identity-file" in text:
            headers["x-api-key"] = (self._folder / "token").read_text().strip()
        if "salver torchserve" in text:
            http, flags, path = inference, "", "/ping"
        command = f"exec {text.strip()} {flags}"
        with (self._folder / ".server.log").open("wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                process_group=self._leader.pid,
            )
        self._servers.append(server)
        scheme = "https" if "--tls-cert" in text else "http"
        url = f"{scheme}://127.0.0.1:{http}{path}"
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until and server.poll() is None:
            try:
                asked = urllib.request.Request(url, headers=headers)
                with urllib.request.urlopen(asked, timeout=5, context=trusting):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        pytest.fail(f"{text} did not become ready:\n{(self._folder / '.server.log').read_text()}")

    def close(self) -> None:
        """End the servers, and whatever else has been left running."""
        try:
            for server in self._servers:
                server.terminate()
                server.wait(PATIENCE_S)
        finally:
            os.killpg(self._leader.pid, signal.SIGKILL)
            self._leader.wait()


@pytest.mark.parametrize("page", TESTED, ids=relative)
def test_the_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    steps = snippets(page)
    uses_sklearn = any("skops" in snippet.text for snippet in steps)
    reader = Reader(tmp_path, fork_server.SKLEARN if uses_sklearn else ())
    try:
        reader.follow(steps)
    finally:
        reader.close()


def test_pages_with_snippets_are_found() -> None:
    assert DOCS / "tutorials" / "first-model.md" in TESTED


def anchors(page: Path) -> set[str]:
    """Heading anchors, as GitHub and the built pages spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", TEXTS, ids=relative)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue  # nothing outside is asked in tests
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{relative(page)} links to {link}"
        if anchor:
            assert anchor in anchors(path), f"{relative(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", TEXTS, ids=relative)
def test_the_files_that_pages_name_exist(page: Path) -> None:
    missing = [name for name in NAMED_FILE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    listed: set[Path] = set()
    for index in (DOCS / "index.md", DOCS / "adr" / "index.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(), re.S):
            entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
            for entry in entries:
                listed |= set(index.parent.glob(entry if entry.endswith("*") else f"{entry}.md"))
    assert {page for page in PAGES if page not in listed} == {DOCS / "index.md"}


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    source = ROOT / "src" / "salver"
    rooms = [path.name for path in source.iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in text] == []


def test_the_index_of_files_is_current() -> None:
    index = runpy.run_path(str(ROOT / "scripts" / "file_index.py"))
    assert (ROOT / "docs/reference/files.md").read_text() == index["page"](), (
        "run: python scripts/file_index.py"
    )


def test_every_how_to_is_in_a_group_of_the_navigation() -> None:
    listed = re.findall(r"^how-to/(.+)$", (ROOT / "docs" / "index.md").read_text(), re.M)
    assert sorted(listed) == sorted(page.stem for page in (ROOT / "docs" / "how-to").glob("*.md"))


def test_the_changelog_links_no_page() -> None:
    """It is a page of the documentation as well, in another folder."""
    assert not re.findall(r"\]\(docs/[^)]*\)", (ROOT / "CHANGELOG.md").read_text())
