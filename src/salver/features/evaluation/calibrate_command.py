"""``salver calibrate``: fit the parameters of the step ``calibrate`` on predictions with their outcomes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Parameter

from salver.terminal.options import Json
from salver.terminal.output import line, record, remark, table

if TYPE_CHECKING:
    from salver.features.evaluation.calibration import CalibrationReport
    from salver.stats.calibration import Floats

_COLUMNS = ("method", "log loss (95 %)", "difference (95 %)", "Brier", "ECE", "accuracy")
_METHODS = Literal["auto", "none", "temperature", "sigmoid", "isotonic"]


@Parameter(name="*")
@dataclass(frozen=True)
class LogOptions:
    """Options that join a prediction log with outcomes."""

    outcomes: Annotated[
        str,
        Parameter(
            name="--outcomes",
            help="Where outcomes are: a registry's folder or the URL of its ledger, or a file with the "
            "columns request and --label. PATH is the folder of --prediction-log then.",
        ),
    ] = ""
    model: Annotated[str, Parameter(name="--model", help="Model in the log (default: the only one).")] = ""
    version: Annotated[
        str,
        Parameter(name="--model-version", help="Its version (default: the newest with outcomes)."),
    ] = ""
    absent: Annotated[
        str, Parameter(name="--absent", help="Label of requests without an outcome (default: left out).")
    ] = ""
    matures_minutes: Annotated[
        float, Parameter(name="--matures-minutes", help="Minutes after which --absent is certain.")
    ] = 0.0


_NO_LOG: Final = LogOptions()


def calibrate(
    path: Path,
    /,
    *,
    label: Annotated[
        str, Parameter(help="Column of what came true; with --outcomes of a registry, the outcomes' name.")
    ] = "label",
    scores: Annotated[
        str,
        Parameter(
            help="Columns of the scores in the order of the classes, with commas; one column is a list, or "
            "the probability of the second of two classes (default: scores, or scores_0, scores_1, …). "
            "With --outcomes, the output."
        ),
    ] = "",
    log: LogOptions = _NO_LOG,
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
        path: A .csv, .tsv, .jsonl or .parquet file of predictions with what came true, or, with --outcomes, a
            prediction log.
    """
    # Imported here because scipy would slow down --help.
    import numpy as np

    from salver.features.evaluation.calibration import as_record, calibration_of
    from salver.features.evaluation.labelled import labels_of, read_scores

    _check_targets(to, diagram)
    names = _listed("classes", classes)
    if log.outcomes:
        values, told = _joined(path, log, label, scores)
    else:
        values, told = read_scores(path, _listed("scores", scores), label)
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
        _draw(diagram, path.name, found)
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


def _check_targets(to: Path | None, diagram: Path | None) -> None:
    """Refuse files that could not be written, before anything is computed. Raises InvalidInput."""
    from salver.words.errors import InvalidInput

    for target in (to, diagram):
        if target is not None and not target.absolute().parent.is_dir():
            raise InvalidInput(f"{target}: the folder {target.parent} does not exist")
    if diagram is not None and diagram.suffix.lower() != ".svg":
        raise InvalidInput(f"--diagram {diagram} is no .svg", fix="Name a file that ends with .svg.")


def _listed(what: str, told: str) -> tuple[str, ...]:
    from salver.features.bulk.command import parse_columns

    if not told:
        return ()
    return parse_columns([f"{what}={told}"])[what]


def _joined(path: Path, log: LogOptions, label: str, output: str) -> "tuple[Floats, Sequence[Any]]":
    """Return scores and labels of a prediction log, and tell what was left out."""
    from salver.dialects.tensorflow.log_reader import log_files, logged_answers
    from salver.features.evaluation.joining import Selection, join
    from salver.features.evaluation.outcomes import read_outcomes

    files = log_files(path)
    outcomes = read_outcomes(log.outcomes, label, time.time())
    until = outcomes.until - log.matures_minutes * 60
    selection = Selection(log.model, log.version, output, log.absent, until)
    answers = (answer for file in files for answer in logged_answers(file))
    found = join(answers, outcomes.labels, selection)
    left = "".join(f"; {count} {why}" for why, count in found.left.items())
    remark(f"{found.model}:{found.version}, {found.output}: {len(found.labels)} answers with outcomes{left}")
    return found.scores, found.labels


def _draw(path: Path, title: str, found: "CalibrationReport") -> None:
    from salver.features.evaluation.reliability import as_svg
    from salver.words.errors import InvalidInput

    try:
        path.write_text(as_svg(title, {"as it is": found.before, "calibrated": found.after}))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from None


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
