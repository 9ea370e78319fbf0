"""``salver evaluate``: accuracy and cost of pipelines and models on labelled rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from salver.terminal.options import Json
from salver.terminal.output import record, table, under_way

if TYPE_CHECKING:
    from salver.features.evaluation.comparison import Scored

_COLUMNS = (
    "",
    "accuracy (95 %)",
    "difference (95 %)",
    "log loss",
    "CPU µs a row",
    "to the first",
    "models run on",
)


def evaluate(
    *paths: Path,
    rows: Annotated[Path, Parameter(name="--on", help="A .csv, .tsv, .jsonl or .parquet file of rows.")],
    label: Annotated[str, Parameter(help="Column of the right answers.")] = "label",
    classes: Annotated[
        str, Parameter(help="Names of the classes in the order of scores, with commas, if labels are names.")
    ] = "",
    output: Annotated[
        str,
        Parameter(
            help="Output that is judged (default: the first with probabilities, or else the first label)."
        ),
    ] = "",
    columns: Annotated[
        tuple[str, ...], Parameter(help="INPUT=COLUMN,COLUMN: columns for an input (default: of its name).")
    ] = (),
    vary: Annotated[
        tuple[str, ...],
        Parameter(help="STEP.OPTION=VALUE,VALUE: run with each value of a step's option, for a curve."),
    ] = (),
    batch: Annotated[int, Parameter(help="Rows of a run.")] = 32,
    trust_pickle: Annotated[bool, Parameter(help="As in salver serve.")] = False,
    json: Json = False,
) -> int:
    """Compare pipelines and models on the same labelled rows: accuracy beside processor time.

    They run in this process on one thread. Differences are from the first one named, over the same rows.

    Args:
        paths: Folders with a pipeline.toml, or models.
    """
    # Imported here because backends would slow down --help.
    from salver.backends.protocol import LoadOptions
    from salver.features.bulk.command import parse_columns
    from salver.features.evaluation.comparison import as_record, columns_of, scored
    from salver.features.evaluation.labelled import read_labelled
    from salver.features.evaluation.measuring import opened, variations
    from salver.words.errors import InvalidInput

    if not paths:
        raise InvalidInput("no pipeline is named", fix="salver evaluate PATH --on rows.csv")
    if batch < 1:
        raise InvalidInput("--batch must be at least 1")
    names = parse_columns([f"classes={classes}"])["classes"] if classes else ()
    found: list[Scored] = []
    for path in paths:
        for changed in variations(vary if (path / "pipeline.toml").is_file() else ()):
            name = " ".join([str(path), *(f"{key}={value}" for key, value in changed.items())])
            pipeline = opened(path, LoadOptions(1, trust_pickle), changed)
            try:
                fields = pipeline.fields(parse_columns(columns))
                given = read_labelled(rows, fields, label, "Name them: --label, --columns INPUT=COLUMN,…")
                with under_way(name):
                    answers = pipeline.measured(given.inputs, batch)
            finally:
                pipeline.close()
            found.append(scored(name, answers, given.labels, names, output))
    if json:
        for one in found:
            record(as_record(one, found[0]))
    else:
        table(_COLUMNS, [columns_of(one, found[0]) for one in found])
    return 0
