"""How is the tritonserver of the nvidia-pytriton wheel started, with its Python backend?

It knows the layout of the wheel, and nothing of models.
"""

import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path


def command(
    environment: Path, repository: Path, folder: Path, flags: Sequence[str], given: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Command line and what it adds to the process's environment.

    Args:
        environment: The virtual environment that the wheel is installed in.
        folder: Takes the backends, which need a stub that fits the environment's Python.
        given: Folder of backends to use instead.
    """
    packages = next(environment.glob("lib/python3*/site-packages"))
    version = packages.parent.name.removeprefix("python")
    bundled = packages / "pytriton" / "tritonserver"

    backends = given or folder / "backends"
    if given is None:
        shutil.rmtree(backends, ignore_errors=True)
        shutil.copytree(bundled / "backends", backends)
        stub = backends / "python" / "triton_python_backend_stub"
        shutil.copy(bundled / "python_backend_stubs" / version / stub.name, stub)
        stub.chmod(0o755)

    argv = [str(bundled / "bin" / "tritonserver"), f"--model-repository={repository}"]
    argv += [f"--backend-directory={backends}", f"--cache-directory={bundled / 'caches'}", *flags]
    # The stub needs the environment's libpython.
    libraries = [packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    return argv, {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONPATH": str(packages),
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
    }
