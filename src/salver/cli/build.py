"""``salver build``: write the context of a container image, with models and a locked environment."""

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from salver.terminal.options import Json
from salver.terminal.output import result, under_way
from salver.words.errors import Conflict, InvalidInput


def build(
    path: str = "",
    /,
    *,
    output: Annotated[Path, Parameter(help="Folder to create, for docker build.")],
    extras: Annotated[
        str,
        Parameter(help="Frameworks beyond those of the models, with commas, as in pip install 'salver[…]'."),
    ] = "",
    requirements: Annotated[
        Path | None, Parameter(help="File of packages that the models import, as for pip install -r.")
    ] = None,
    gpu: Annotated[
        bool, Parameter(help="Take builds of PyTorch and ONNX Runtime for NVIDIA's GPUs, with CUDA.")
    ] = False,
    offline: Annotated[
        bool, Parameter(help="Put all packages into the folder, so that building asks no index.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the context of a container image: models, Salver, and their packages, locked by version and hash.

    Packages that are installed here are locked at their versions here. pip finds them where it is configured
    to, for the Python and the kind of machine that runs this command.

    Args:
        path: Model file, folder or repository, as for salver serve. Without one, models are mounted at
            /models.
    """
    # Imported here: looking at every installed package would slow --help.
    from salver.cli.image_context import write_context

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise Conflict(f"{output} exists and is not empty", fix="Name a new folder: --output DIR.")
    needed, tools = _needed(path)
    named = {*extras.replace(",", " ").split(), *needed}
    if requirements is not None:
        tools += ["--requirement", str(requirements)]
    try:
        with under_way("locking packages"):
            packages = write_context(output, path, named, tools, offline=offline, gpu=gpu)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # the next try needs a new folder
        raise
    found = {"folder": str(output), "extras": sorted(named), "packages": packages}
    result(
        found,
        f"{output}: {packages} packages locked, extras: {', '.join(sorted(named)) or 'none'}\n"
        f"next: docker build -t NAME {output}",
        json=json,
    )


def _needed(path: str) -> tuple[set[str], list[str]]:
    """Return the extras that the models at a path need, and further packages."""
    if not path:
        return set(), []
    from salver.backends.discovery import backends, recogniser
    from salver.kernel.repository import Repository
    from salver.parts import formats

    if not Path(path).exists():
        raise InvalidInput(
            f"{path} does not exist", fix="Name a model file, a folder or a repository of this machine."
        )
    known = backends()
    found = Repository((path,), formats(recogniser(known))).scan(0.0)
    if not found:
        raise InvalidInput(f"{path} has no model", fix=f"salver doctor {path} says why.")
    extras = {known[manifest.backend].extra for manifest in found if manifest.backend in known}
    tools = []
    if any(manifest.config.environment.path for manifest in found):
        tools.append("uv")  # containers make the environments of models when they start, and have no pip
    return extras - {"", "python"}, tools
