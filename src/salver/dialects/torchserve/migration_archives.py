"""Check whether an archive of TorchServe runs here.

Judged by its manifest, its ``model-config.yaml`` and what its program imports, which is read and never run.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from salver.backends.installed import is_installed
from salver.backends.protocol import ArtifactKind
from salver.dialects.torchserve.archive import ArchiveDescription, describe
from salver.dialects.torchserve.archive_files import read_text
from salver.dialects.torchserve.model_yaml import read_keys
from salver.migration.models import (
    DIFFERS,
    FAILS,
    RUNS,
    Installation,
    Model,
    Verdict,
    missing_packages,
    missing_text,
)
from salver.migration.report import Setting
from salver.words.errors import BadArchive, SalverError
from salver.words.handlers import FORMAT

_SERVER: Final = "torchserve"
#: Package ``ts`` that handlers import.
_SHIM: Final = Path(__file__).parent / "shim" / "ts"
_NEEDED: Final = re.compile(r"""\bneeded\(\s*[^,()]+,\s*["']([\w.]+)["']""")
_ACCEPTED: Final = re.compile(r"(.+?): (accepted, no effect here|left to the handler.*)")
_ASK: Final = "Open an issue if you need it: Salver does not provide this module of TorchServe."
_CPP: Final = "its runtime is LSP, TorchServe's backend in C++, which Salver does not have"


class ArchiveJudge:
    """Judge of archives that records the effect of each key of their files.

    Args:
        folder: The deployment's.
        installs: Whether the requirements of archives are installed.
    """

    def __init__(self, folder: Path, installed: Installation, *, installs: bool) -> None:
        self._folder = folder
        self._installed = installed
        self._installs = installs
        self.settings: list[Setting] = []

    def model(self, path: Path) -> Model:
        """Return an archive as a model of the report."""
        what = self._installed.formats.recognise(path) or ArtifactKind(FORMAT, FORMAT)
        backend = self._installed.backends.get(what.backend)
        name, version = path.name.partition(".")[0], ""
        why: tuple[str, ...] = ()
        fix = ""
        try:
            description = describe(path)
            name, version = description.archive.name or name, description.archive.version
            self._keys(path, description)
            verdict, why, fix = self._judge(path, description)
        except SalverError as error:
            verdict, why, fix = FAILS, (error.message,), error.fix
        missing: list[str] = []
        if backend is not None:
            missing = [module for module in backend.modules if not is_installed(module)]
            if missing and verdict != FAILS:
                verdict, why = (
                    FAILS,
                    (f"the torchserve backend needs {', '.join(missing)}, not installed here",),
                )
                fix = f"pip install 'salver[{backend.extra}]'"
        versions = (version,) if version else ()
        outcome = (not missing, verdict, why, fix)
        return Model(_SERVER, name, versions, str(path), what.format, what.backend, *outcome)

    def _judge(self, path: Path, description: ArchiveDescription) -> tuple[Verdict, tuple[str, ...], str]:
        archive = description.archive
        if archive.runtime == "LSP":
            return FAILS, (_CPP,), "Export the model for Python, or as ONNX."
        handler = archive.handler.partition(":")[0]
        sources, problem = self._sources(path, handler, archive.model_file)
        if problem:
            return FAILS, (problem,), "Repack it with --handler."
        if missing := sorted({name for source in sources for name in _not_in_shim(source)}):
            return FAILS, (f"its program imports {', '.join(missing)}, which Salver does not have",), _ASK
        will_install = archive.requirements_file and self._installs
        if not will_install and (names := self._lacking(path, sources)):
            text, fix = missing_text(names)
            if archive.requirements_file:
                fix += f"; or install_py_dep_per_model=true installs its {archive.requirements_file}"
            return FAILS, (text,), fix
        if description.notices:
            return DIFFERS, description.notices, ""
        return RUNS, (), ""

    def _sources(self, path: Path, handler: str, model_file: str) -> tuple[list[bytes], str]:
        """Return an archive's programs, and what is wrong if it has none."""
        sources = []
        if handler:
            source = read_text(path, f"{handler.removesuffix('.py')}.py")
            built_in = _SHIM / "torch_handler" / f"{handler}.py"
            if source is None and re.fullmatch(r"\w+", handler) and built_in.is_file():
                source = built_in.read_bytes()
            if source is None:
                return [], f"there is no handler '{handler}' in the archive, and no such built-in one"
            sources.append(source)
        if model_file:
            source = read_text(path, model_file)
            if source is None:
                return [], f"its manifest names the file '{model_file}', which is missing"
            sources.append(source)
        return sources, ""

    def _lacking(self, path: Path, sources: list[bytes]) -> tuple[str, ...]:
        declared = {name for source in sources for name in _NEEDED.findall(source.decode("utf-8", "replace"))}
        names = {*missing_packages(sources), *(name for name in declared if not is_installed(name))}
        return tuple(sorted(name for name in names if not self._has(path, name)))

    def _has(self, path: Path, module: str) -> bool:
        """Return whether a module lies in the archive."""
        try:
            packages = (f"{module}.py", f"{module}/__init__.py")
            return any(read_text(path, name) is not None for name in packages)
        except BadArchive:
            return False

    def _keys(self, path: Path, description: ArchiveDescription) -> None:
        """Record the effect of each key of its ``model-config.yaml``."""
        if description.yaml is None:
            return
        content = read_text(path, description.archive.config_file) or b""
        where = f"{path.relative_to(self._folder)}: {description.archive.config_file}"
        notices = {found[1]: found[2] for each in description.notices if (found := _ACCEPTED.fullmatch(each))}
        for key, value in read_keys(content, where).items():
            text = str(value) if not isinstance(value, dict | list) else ""
            notice = notices.get(key, "")
            setting = Setting(_SERVER, where, key, text, "used")
            if notice.startswith("accepted"):
                setting = Setting(_SERVER, where, key, text, "no effect")
            elif notice:
                setting = Setting(_SERVER, where, key, text, "differs", notice)
            self.settings.append(setting)


def _not_in_shim(source: bytes) -> Iterator[str]:
    """Yield modules of TorchServe that a program imports and that Salver does not provide."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            top, _, rest = name.partition(".")
            place = _SHIM / rest.replace(".", "/")
            if top == "ts" and not (place.is_dir() or place.with_suffix(".py").is_file()):
                yield name
