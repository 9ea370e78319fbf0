"""``salver calibrate``: fit the parameters of the step ``calibrate`` on predictions with their outcomes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from salver.terminal.options import Json
from salver.terminal.output import line, record, remark, table

if TYPE_CHECKING:
    from salver.features.evaluation.calibration import CalibrationReport

_COLUMNS = ("method", "log loss (95 %)", "difference (95 %)", "Brier", "ECE", "accuracy")
_METHODS = Literal["auto", "none", "temperature", "sigmoid", "isotonic"]


def calibrate(
    path: Path,
    /,
    *,
    label: Annotated[str, Parameter(help="Column of what came true.")] = "label",
    scores: Annotated[
        str,
        Parameter(
            help="Columns of the scores in the order of the classes, with commas; one column is a list, or "
            "the probability of the second of two classes (default: scores, or scores_0, scores_1, …)."
        ),
    ] = "",
    classes: Annotated[
        str, Parameter(help="Names of the classes in that order, with commas, if labels are names.")
    ] = "",
    logits: Annotated[bool, Parameter(help="Scores are logits, not probabilities.")] = False,
    method: Annotated[
        _METHODS, Parameter(help="auto: the simplest that is certainly better than those before it.")
    ] = "auto",
    folds: Annotated[int, Parameter(help="Parts of the cross-validation.")] = 5,
    bins: Annotated[int, Parameter(help="Bins of equal width, of ECE and the diagram.")] = 15,
    seed: Annotated[int, Parameter(help="Of the parts.")] = 0,
    to: Annotated[
        Path | None,
        Parameter(help="Write the parameters here, for example MODEL/calibration.json beside pipeline.toml."),
    ] = None,
    diagram: Annotated[Path | None, Parameter(help="Draw the reliability diagram to this .svg file.")] = None,
    json: Json = False,
) -> int:
    """Calibrate scores: compare methods by cross-validation, and write the parameters of the best.

    Methods are judged by log loss on rows that they were not fitted on. If none is certainly better, the
    parameters leave scores as they are.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file of predictions with what came true.
    """
    # Imported here because scipy would slow down --help.
    import numpy as np

    from salver.features.bulk.command import parse_columns
    from salver.features.evaluation.calibration import as_record, calibration_of
    from salver.features.evaluation.labelled import labels_of, read_scores
    from salver.features.evaluation.reliability import as_svg
    from salver.words.errors import InvalidInput

    for target in (to, diagram):
        if target is not None and not target.absolute().parent.is_dir():
            raise InvalidInput(f"{target}: the folder {target.parent} does not exist")
    if diagram is not None and diagram.suffix.lower() != ".svg":
        raise InvalidInput(f"--diagram {diagram} is no .svg", fix="Name a file that ends with .svg.")
    columns = parse_columns([f"scores={scores}"])["scores"] if scores else ()
    names = parse_columns([f"classes={classes}"])["classes"] if classes else ()
    values, told = read_scores(path, columns, label)
    found = calibration_of(
        values,
        labels_of(told, names, max(2, values.shape[1])),
        np.random.default_rng(seed).permutation(len(told)),
        are_logits=logits,
        wish=method,
        folds=folds,
        bins=bins,
    )
    if to is not None:
        _write(to, found)
    if diagram is not None:
        try:
            diagram.write_text(as_svg(path.name, {"as it is": found.before, "calibrated": found.after}))
        except OSError as error:
            raise InvalidInput(f"{diagram} cannot be written: {error.strerror or error}") from None
    if json:
        record(as_record(found, str(to or "")))
        return 0
    _show(found)
    if diagram is not None:
        line(f"diagram drawn to {diagram}")
    if to is not None:
        line(f"parameters written to {to}")
        remark("A server loads the model again by itself; with --control explicit: salver models load NAME")
    return 0


def _write(path: Path, found: "CalibrationReport") -> None:
    """Write the parameters, whole or not at all."""
    import msgspec

    from salver.words.errors import InvalidInput

    content = msgspec.json.format(msgspec.json.encode(found.file), indent=1)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(content + b"\n")
        draft.replace(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from None


def _show(found: "CalibrationReport") -> None:
    from salver.features.evaluation.calibration import columns_of
    from salver.features.evaluation.reliability import drawn

    table(_COLUMNS, [columns_of(trial) for trial in found.trials])
    line(f"\nchosen: {found.file.method} ({found.why})")
    for title, bins in (("as it is", found.before), ("calibrated", found.after)):
        line(f"\n{title:<12}      rows   predicted   came true, | where it should be, o where it is")
        for text in drawn(bins):
            line(text)
        if found.file.method == "none":
            break
    line()
