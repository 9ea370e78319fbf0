"""``salver tune``: choice of a setting for a model on this machine, with reasons."""

import asyncio
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from salver.terminal.options import Json, state_dir_of
from salver.terminal.output import line, on_terminal, record, remark, table

if TYPE_CHECKING:
    from salver.features.tuning.profile import Profile
    from salver.features.tuning.results import TuningResult
    from salver.words.artifacts import Manifest, Objective

_PIPELINE = "pipeline"
_PLOTS = (("throughput", 16), ("length of a run", 11))  # height of the picture in lines, with heading


def tune(
    path: Path,
    /,
    *,
    objective: Annotated[
        str,
        Parameter(
            help="latency_p99=50ms, deadline=100ms or throughput; without it that of the model's "
            "salver.toml, else throughput."
        ),
    ] = "",
    exhaustive: Annotated[
        bool, Parameter(help="Also measure the whole grid and compare the choice with the best.")
    ] = False,
    max_rows: Annotated[
        int, Parameter(help="Maximum rows of a batch, as batching.max_rows; 0 = find the best up to 32.")
    ] = 0,
    seconds: Annotated[float, Parameter(help="Start no measurement after this many seconds.")] = 60.0,
    report: Annotated[Path | None, Parameter(help="Draw the curves to this .svg or .png file.")] = None,
    state_dir: Annotated[
        str | None, Parameter(help="Folder of the profile, as in salver serve; '' = do not store it.")
    ] = None,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Measure a model; choose instances, threads and batch size for an objective; give reasons.

    The model is loaded in this process and run on generated inputs, or on its warm-up request. The profile is
    stored, and salver serve uses it for the same model, objective and machine.

    Of a pipeline, the whole is asked by several callers: rows of a run, instances and placement of its steps
    and models are tried one after the other, and what the whole gains by is shown for its pipeline.toml.

    Args:
        path: A model file, a folder of one model, or of a pipeline.toml.
    """
    # Imported here because backends and planner would slow down --help.
    from salver.features.tuning import results as tuned
    from salver.features.tuning.objective import parse
    from salver.terminal import chart_file
    from salver.words.errors import InvalidInput

    wish = parse(objective)
    if max_rows < 0 or not seconds > 0:
        raise InvalidInput("--max-rows must not be below 0, and --seconds must be above")
    if report is not None:
        chart_file.check(report)
    own = _find(path)
    manifest = _with(own, wish)
    if manifest.backend == _PIPELINE:
        from salver.features.tuning.graph_command import tune_graph

        if exhaustive or max_rows or report is not None:
            raise InvalidInput("--exhaustive, --max-rows and --report are for models, and not for pipelines")
        return tune_graph(manifest, seconds, trust_pickle=trust_pickle, json=json)
    try:
        found, profile = asyncio.run(
            _search(manifest, seconds, max_rows, trust_pickle=trust_pickle, exhaustive=exhaustive, quiet=json)
        )
    except KeyboardInterrupt:
        remark("stopped; nothing is kept")
        return 130
    folder = state_dir_of(state_dir)
    saved = _keep(profile, folder)
    if report is not None:
        chart_file.write(tuned.picture(found), report)
    if json:
        record(tuned.as_record(found, saved))
        return 0
    _show(found)
    line()
    if report is not None:
        line(f"report written to {report}")
    if saved:
        line(f"profile kept in {saved}")
    elif folder:
        remark(f"the profile could not be kept in {folder}")
    _advise(own, manifest, tuned.toml(found), is_kept=bool(saved))
    return 0


def _find(path: Path) -> "Manifest":
    """Return the single model at a path, in its newest version.

    Raises:
        InvalidInput: there is none, or more than one.
        Unsupported: it does not support batching.
        LoadFailed: it cannot be loaded.
    """
    from salver.backends.discovery import backends, recogniser
    from salver.kernel.repository import Repository
    from salver.parts import formats
    from salver.words.errors import InvalidInput, LoadFailed, Unsupported

    known = backends()
    found = Repository((path,), formats(recogniser(known))).scan(0.0)
    names = sorted({manifest.id.name for manifest in found})
    if not names:
        raise InvalidInput(
            f"no model that any installed backend recognises in {path}", fix=f"Try: salver doctor {path}"
        )
    if len(names) > 1:
        raise InvalidInput(f"{path} holds several models ({', '.join(names)})", fix="Name one: PATH/NAME")
    newest = max(found, key=lambda manifest: int(manifest.id.version))
    if newest.problem:
        raise LoadFailed(newest.problem)
    if newest.config.ensemble.steps:
        fix = "Tune those, or keep copies beside pipeline.toml."
        if newest.backend != _PIPELINE:
            fix = "Tune those."
        raise Unsupported(f"{path} is an ensemble, which runs as its models do", fix=fix)
    if newest.backend not in known:
        raise LoadFailed(f"{path} asks for the backend {newest.backend!r}, which does not exist")
    if newest.config.steps.vocabulary:
        raise Unsupported(f"{path} works step by step: it has no batch limit that could be chosen")
    if newest.config.sequences.strategy:
        raise Unsupported(f"{path} serves sequences: who shares a run is not to be chosen")
    return newest


def _with(manifest: "Manifest", wish: "Objective") -> "Manifest":
    """Return the manifest with the command line's objective."""
    from salver.words.artifacts import Objective

    config = manifest.config
    if wish == Objective():
        wish = config.objective
    if wish == Objective():
        wish = Objective(throughput=True)
    config = msgspec.structs.replace(config, objective=wish)
    return msgspec.structs.replace(manifest, config=config)


async def _search(
    manifest: "Manifest", seconds: float, rows: int, *, trust_pickle: bool, exhaustive: bool, quiet: bool
) -> "tuple[TuningResult, Profile]":
    from salver.backends.discovery import backends
    from salver.features.tuning.progress import SearchProgress
    from salver.features.tuning.sweep import Sweep

    with SearchProgress(f"{manifest.id.name}: measuring", quiet=quiet) as watch:
        sweep = Sweep(manifest, backends()[manifest.backend], watch, seconds, trust_pickle)
        return await sweep.run(exhaustive=exhaustive, rows=rows)


def _keep(profile: "Profile", folder: str) -> str:
    """Store the profile for salver serve; return its path, or empty if not wanted or not written."""
    from salver.features.tuning.profiles import ProfileStore

    store = ProfileStore(folder)
    store.write(profile)
    if store.read(profile.key, profile.machine) == profile:
        return folder
    return ""


def _show(found: "TuningResult") -> None:
    """Show the curve and the reasons."""
    from salver.features.tuning import results as tuned

    picture = tuned.picture(found)
    if on_terminal():
        from rich.console import Console
        from rich.text import Text

        from salver.terminal.picture import draw

        width = shutil.get_terminal_size((100, 24)).columns
        console = Console(width=width, highlight=False)
        for panel in picture.panels:
            for heading, height in _PLOTS:
                if panel.title == heading:
                    console.print()
                    for runs in draw(panel, width, height):
                        console.print(Text.assemble(*runs), no_wrap=True, overflow="crop")
        console.print(Text(f"\n{picture.title}\n", style="bold"))
    else:
        line(f"\n{picture.title}\n")
    table(*tuned.curve_table(found))
    line()
    for text in picture.lines:
        _item(text)


def _item(text: str) -> None:
    """Format a list item to the width of the terminal."""
    width = sys.maxsize
    if on_terminal():
        width = shutil.get_terminal_size((100, 24)).columns
    for part in textwrap.wrap(text, max(width - 2, 20), initial_indent="- ", subsequent_indent="  "):
        line(part)


def _advise(own: "Manifest", tried: "Manifest", toml: str, *, is_kept: bool) -> None:
    """Show the lines for ``salver.toml``."""
    first, _, rest = toml.partition("\n\n")
    if own.config.objective != tried.config.objective:
        use = ""
        if is_kept:
            use = ", and salver serve takes what was found here"
        line(f"say it in NAME/salver.toml, the model being in NAME/1/{use}:\n\n{first}")
    elif is_kept:
        line("salver serve takes what was found here the next time it loads the model")
    line(f"\nto fix the setting as it is now instead, say there:\n\n{rest}")
