"""``salver pipelines``: show, digest and lock a ``pipeline.toml``, checked as a server checks it."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from msgspec import to_builtins

from salver.terminal.options import Json
from salver.terminal.output import line, record, remark, result

pipelines = App(
    name="pipelines",
    help="Pipelines of steps and models in a pipeline.toml.",
    default_parameter=Parameter(negative=()),
)


@pipelines.command
def show(
    path: Path,
    /,
    *,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Check a pipeline and draw its graph: the steps from the top down, with the edges that each reads.

    Models beside the file are loaded to know their types; those of the server are taken from beside the
    folder, and their types are not known if they are not there.

    Args:
        path: A folder with a pipeline.toml.
    """
    # Imported here because backends would slow down --help.
    from salver.features.pipelines.local import plan_of
    from salver.features.pipelines.showing import described, drawn

    plan, unknown = plan_of(path, trust_pickle=trust_pickle)
    if json:
        record(described(plan))
        return 0
    for text in drawn(plan):
        line(text)
    if unknown:
        remark(f"not checked, because they are models of the server: {', '.join(unknown)}")
    return 0


@pipelines.command
def digest(
    path: Path,
    /,
    *,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Print the digest of all that decides a pipeline's answers.

    That is the graph with the options of its steps, the files that they name, the models, and the versions of
    libraries.

    Args:
        path: A folder with a pipeline.toml.
    """
    from salver.features.pipelines.local import described_lock

    found = described_lock(path, trust_pickle=trust_pickle)
    result({"digest": found.digest, **to_builtins(found.pipeline)}, found.digest, json=json)
    return 0


@pipelines.command
def lock(
    path: Path,
    /,
    *,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Write pipeline.lock beside a pipeline.toml; from then on, loading it tells what has changed.

    Args:
        path: A folder with a pipeline.toml.
    """
    from salver.features.pipelines.local import described_lock
    from salver.features.pipelines.locking import lock_path, write_lock

    found = described_lock(path, trust_pickle=trust_pickle)
    write_lock(path, found)
    place = str(lock_path(path))
    result({"digest": found.digest, "file": place}, f"{place}: {found.digest}", json=json)
    return 0
