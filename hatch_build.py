"""Build hook that compiles modules into an accelerated wheel if ``SALVER_COMPILE=1``.

Without that variable the wheel is pure Python. The compiled modules lie beside their sources and are imported
in their place (docs/adr/0012-compiled-modules.md).
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Compiled modules. Whatever extends a class of one of them has to be here, too.
COMPILED = (
    "features/fronts/exchange.py",
    "transport/exchange.py",
    "transport/terms.py",
    "transport/http1.py",
    "transport/http1_body.py",
    "transport/http1_chunks.py",
    "transport/http1_head.py",
    "transport/http2.py",
    "transport/http2_frames.py",
    "transport/http2_head.py",
    "transport/http2_stream.py",
    "kernel/engine/batcher.py",
    "kernel/engine/delivery.py",
    "kernel/engine/dispatcher.py",
    "kernel/engine/engine.py",
    "kernel/engine/execution.py",
    "kernel/engine/lanes.py",
    "kernel/engine/pace.py",
    "kernel/engine/rules.py",
    "kernel/engine/schedule.py",
    "kernel/engine/stack.py",
    "kernel/engine/targets.py",
    "kernel/engine/waiting.py",
)


class CompiledModules(BuildHookInterface[Any]):
    """Compilation with mypyc."""

    @property
    def _is_on(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("SALVER_COMPILE") == "1"

    def dependencies(self) -> list[str]:
        """Return what the compilation needs: mypy reads the types of what Salver imports."""
        if not self._is_on:
            return []
        return ["mypy[mypyc]>=2.4,<3", *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the files to the wheel."""
        if not self._is_on or version == "editable":
            return
        folder = Path(self.root, "build", "compiled")
        for file in compile_to(folder):
            build_data["force_include"][str(file)] = file.relative_to(folder / "lib").as_posix()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def compile_to(folder: Path) -> list[Path]:
    """Compile the modules; return the files, below ``folder / "lib"`` as in site-packages."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    paths = [f"src/salver/{name}" for name in COMPILED]
    extensions = mypycify(
        paths, opt_level="2", debug_level="0", multi_file=True, target_dir=str(folder), group_name="salver"
    )
    command = build_ext(Distribution({"ext_modules": extensions}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder)
    command.parallel = os.cpu_count()
    command.ensure_finalized()
    command.run()
    return [Path(name) for name in command.get_outputs()]
