"""``salver pipelines``: show the graph of a ``pipeline.toml``, checked as a server checks it."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from salver.terminal.options import Json
from salver.terminal.output import line, record, remark

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
