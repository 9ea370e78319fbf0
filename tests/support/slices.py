"""Trees without one dialect or feature: what imports it, which tests are left, and how these are run there.

Reads syntax trees and imports nothing of Salver, so that a process in which it is imported can run any tree.
"""

import ast
import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import cpu_notes

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "salver"
TESTS = ROOT / "tests"
SLICES = sorted(
    path.relative_to(SOURCE).as_posix()
    for group in ("dialects", "features")
    for path in (SOURCE / group).iterdir()
    if (path / "__init__.py").exists()
)
#: Folders of tests of what lies below the slices. Those of the command, of whole servers and of releases of
#: the product are about all slices at once.
BELOW = ("backends", "encoding", "kernel", "stats", "stores", "terminal", "transport", "words")
_OIP, _TENSORFLOW, _TORCHSERVE, _TRITON, _OPENAI, _CLOUDS = (
    f"dialects/{name}" for name in ("oip", "tensorflow", "torchserve", "triton", "openai", "clouds")
)
_ACCESS, _KEYRING, _USAGE = "features/access", "features/keyring", "features/usage"
_MEMORY, _PIPELINES, _ROUTING = "features/memory", "features/pipelines", "features/routing"
_CACHE, _LEDGER, _MANAGEMENT, _REGISTRY, _RELEASES, _TELEMETRY, _TUNING, _TWINS = (
    f"features/{name}"
    for name in ("cache", "ledger", "management", "registry", "releases", "telemetry", "tuning", "twins")
)
#: Test files that try slices together, with those that they need beside what their own folder needs.
TOGETHER: dict[str, set[str]] = {
    "backends/test_harmless_formats.py": {_PIPELINES, _TORCHSERVE},
    "dialects/clouds/test_platform_doors.py": {_OIP},
    "dialects/clouds/test_platform_environment.py": {_TRITON},
    "dialects/oip/test_as_triton_beside.py": {_TENSORFLOW, _TRITON},
    "dialects/oip/test_codec_conformance.py": {_TENSORFLOW, _TRITON},
    "dialects/oip/test_codec_errors.py": {_TENSORFLOW},
    "dialects/oip/test_exact_texts.py": {_TRITON},
    "dialects/tensorflow/test_replay.py": {_TWINS},
    "dialects/tensorflow/test_tensorflow_flags.py": {_TWINS},
    "dialects/tensorflow/test_tensorflow_metrics.py": {_TELEMETRY},
    "dialects/torchserve/test_foreign_forms.py": {_OIP, _TENSORFLOW},
    "dialects/torchserve/test_torchserve_metrics.py": {_TELEMETRY},
    "dialects/torchserve/test_ts_grpc_methods.py": {_OIP},
    "dialects/torchserve/test_ts_grpc_tensors.py": {_OIP},
    "dialects/torchserve/test_ts_schema.py": {_TRITON},
    "dialects/triton/test_triton_flags.py": {_OPENAI},
    "dialects/triton/test_triton_metrics.py": {_TELEMETRY},
    "encoding/test_known_forms.py": {_OIP},
    "encoding/test_long_lists.py": {_OIP, _TRITON},
    "encoding/test_varints.py": {_TENSORFLOW},
    "encoding/test_wire_edges.py": {_OIP, _OPENAI, _TENSORFLOW, _TRITON},
    "features/access/test_every_route.py": {_MANAGEMENT, _TORCHSERVE},
    "features/access/test_rule_rights.py": {_MANAGEMENT, _ROUTING, _TORCHSERVE},
    "features/access/test_torchserve_tokens.py": {_MANAGEMENT, _TORCHSERVE},
    "features/console/test_console_access.py": {_LEDGER, _REGISTRY, _RELEASES},
    "features/console/test_console_files.py": {_LEDGER, _REGISTRY, _RELEASES},
    "features/console/test_console_keys.py": {_ACCESS, _LEDGER, _REGISTRY, _RELEASES},
    "features/console/test_console_pages.py": {_LEDGER, _REGISTRY, _RELEASES},
    "features/console/test_console_states.py": {_LEDGER, _REGISTRY, _RELEASES},
    "features/console/test_console_usage.py": {_ACCESS, _LEDGER, _REGISTRY, _RELEASES},
    "features/console/test_docs_page.py": {_LEDGER, _REGISTRY, _RELEASES},
    "features/fronts/test_front_processes.py": {_ACCESS},
    "features/pipelines/test_load_ensemble.py": {_CACHE},
    "features/pipelines/test_pipelines_served.py": {_ACCESS},
    "features/keyring/test_keys_served.py": {_RELEASES},
    "features/management/test_api_reference.py": {
        *(_ACCESS, _CACHE, _KEYRING, _MEMORY, _RELEASES, _ROUTING, _USAGE),
    },
    "features/management/test_controllers_page.py": {
        *(_ACCESS, _CACHE, _KEYRING, _MEMORY, _RELEASES, _ROUTING, _USAGE),
    },
    "features/registry/test_bucket_artifacts.py": {"features/backup"},
    "features/registry/test_region_drill.py": {_ROUTING},
    "features/registry/test_api_registry.py": {_MANAGEMENT, _RELEASES},
    "features/releases/test_api_releases.py": {_MANAGEMENT},
    "features/releases/test_release_controls.py": {_TENSORFLOW},
    "features/releases/test_shadow_server.py": {_CACHE},
    "features/releases/test_split_handlers.py": {_TORCHSERVE},
    "features/systemd/test_systemd.py": {_ACCESS},
    "features/telemetry/test_otel.py": {_TRITON},
    "kernel/engine/test_admission.py": {_OIP, _TENSORFLOW},
    "kernel/engine/test_schedule.py": {_TUNING},
    "kernel/engine/test_signatures.py": {_CACHE},
    "kernel/engine/test_threads.py": {_TORCHSERVE},
    "kernel/repository/test_bounds.py": {_TRITON},
    "kernel/repository/test_settings.py": {_TRITON},
    "kernel/serving/test_calls.py": {_TELEMETRY},
    "kernel/serving/test_decoding.py": {_OIP, _OPENAI, _TENSORFLOW, _TORCHSERVE, _TRITON},
    "transport/test_effects.py": {
        *(_CLOUDS, _OIP, _TENSORFLOW, _TORCHSERVE),
        *(_MANAGEMENT, _REGISTRY, _RELEASES),
    },
    "transport/test_front.py": {_OPENAI, _TRITON},
    "transport/test_operations.py": {_MANAGEMENT, _RELEASES},
    "transport/test_routes.py": {_OIP},
}
#: Fast tests of each folder that has some.
SMOKE = (
    "words/test_errors.py",
    "encoding/test_protos.py",
    "stats/test_combine.py",
    "kernel/test_supervise.py",
    "kernel/engine/test_control.py",
    "kernel/lifecycle/test_version_routes.py",
    "kernel/repository/test_formats.py",
    "transport/test_access.py",
    "transport/test_grpc_frames.py",
    "dialects/oip/test_classification.py",
    "dialects/openai/test_openai_codec.py",
    "dialects/tensorflow/test_tfs_heads.py",
    "dialects/torchserve/test_ts_paths.py",
    "dialects/triton/test_statistics.py",
    "features/access/test_key_table.py",
    "features/bulk/test_bulk_ask.py",
    "features/cache/test_caching.py",
    "features/console/test_console_files.py",
    "features/pipelines/test_graph.py",
    "features/identity/test_rules.py",
    "features/keyring/test_key_changes.py",
    "features/management/test_api_door.py",
    "features/registry/test_card.py",
    "features/releases/test_release_states.py",
    "features/telemetry/test_verdict.py",
    "features/tuning/test_engine_objective.py",
)


def slice_of(module: str) -> str:
    """Return the slice in which a module lies; empty = none.

    >>> slice_of("salver.dialects.oip.faults"), slice_of("salver.feature")
    ('dialects/oip', '')
    """
    _, group, name, *_ = [*module.split("."), "", "", ""]
    return f"{group}/{name}" if f"{group}/{name}" in SLICES else ""


@functools.cache
def needs() -> dict[str, set[str]]:
    """Return the slices that packages need: what any module of theirs imports, when it starts or runs."""
    found = {}
    for package in (*SLICES, *BELOW):
        text = "\n".join(path.read_text() for path in (SOURCE / package).rglob("*.py"))
        modules = re.findall(r"\b(?:from|import) (salver\.\w+\.\w+)", text)
        found[package] = {slice_of(module) for module in modules} - {"", package}
    for _ in SLICES:  # what they need in turn
        for package, needed in found.items():
            needed.update(*(found[other] for other in tuple(needed)), ())
            needed.discard(package)
    return found


def folder_of(test: Path) -> str:
    """Return the slice or the package below the slices whose tests a file has."""
    parts = test.relative_to(TESTS).parts
    return "/".join(parts[:2]) if parts[0] in ("dialects", "features") else parts[0]


@functools.cache
def tests() -> list[Path]:
    """Return the test files of all slices and of what lies below them."""
    return [path for path in sorted(TESTS.rglob("test_*.py")) if folder_of(path) in (*SLICES, *BELOW)]


def imported(test: Path) -> set[str]:
    """Return the slices that a test file imports when collected, itself or through support and neighbours."""
    todo = [path for path in (test, test.with_name("conftest.py")) if path.exists()]
    seen = set(todo)
    for path in todo:
        for module in _modules(path):
            for helper in (TESTS / "support" / f"{module}.py", path.with_name(f"{module}.py")):
                if helper not in seen and helper.exists():
                    seen.add(helper)
                    todo.append(helper)
    return {slice_of(module) for path in seen for module in _modules(path)} - {"", folder_of(test)}


@functools.cache
def _modules(path: Path) -> set[str]:
    return set(_imports(ast.parse(path.read_text()).body))


def _imports(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module or ""
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _imports([*node.body, *node.orelse])
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from _imports(node.body)


def left_without(name: str) -> list[Path]:
    """Return the test files of a tree without this slice and what needs it."""
    gone = {name} | {package for package, needed in needs().items() if name in needed}
    together = {TESTS / path for path, needed in TOGETHER.items() if needed & gone}
    return [path for path in tests() if folder_of(path) not in gone and path not in together]


def write_tree(tree: Path, name: str) -> None:
    """Link everything but one slice and the tests that need it into ``tree``."""
    shutil.copytree(SOURCE, tree / "src" / "salver", copy_function=os.link)  # with what is compiled
    shutil.rmtree(tree / "src" / "salver" / name)
    for path in ROOT.iterdir():
        if path.name not in ("src", "tests") and not path.name.startswith("."):
            (tree / path.name).symlink_to(path)
    left = left_without(name)

    def others(folder: str, names: list[str]) -> list[str]:
        return [each for each in names if fnmatch(each, "test_*.py") and Path(folder, each) not in left]

    shutil.copytree(TESTS, tree / "tests", copy_function=os.link, ignore=others)


def run(
    test: str,
    tree: Path,
    output: Path,
    program: str,
    arguments: list[str],
    tests: Sequence[Path],
    files: Sequence[Path],
) -> None:
    """Run a program on a tree in this process, and end; with its output in a file.

    Then run some tests there, and import all of some files.
    """
    import pytest
    from hypothesis import settings

    class Importing:
        """Plugin that makes no tests of what is imported, which would take longer."""

        @pytest.hookimpl(tryfirst=True)
        def pytest_pycollect_makeitem(self) -> list[pytest.Item]:
            return []

    def pytest_on(paths: Sequence[Path], *plugins: object) -> int:
        options = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=few"]
        return pytest.main([*options, *(str(path.relative_to(ROOT)) for path in paths)], plugins)

    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    os.environ["PYTEST_HOSTS"] = "exec"  # there are none
    sys.path.remove(str(TESTS / "support"))
    sys.path.insert(0, str(tree / "src"))
    sys.argv[1:] = arguments
    exec(program, {})
    settings.register_profile("few", max_examples=5)
    is_right = not tests or pytest_on(tests) == pytest.ExitCode.OK
    if files and is_right:
        is_right = pytest_on(files, Importing()) == pytest.ExitCode.NO_TESTS_COLLECTED
    sys.stdout.flush()
    cpu_notes.note(test, time.process_time())
    os._exit(not is_right)
