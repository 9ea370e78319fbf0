"""Models from folders that MLflow wrote.

The artefact of the best flavour is put at the top of a folder, as in a model repository, with MLflow's
metadata beside it.
"""

from pathlib import Path
from typing import Final, Literal

from salver.stores import StoreFailed
from salver.stores.mlmodel import BESIDE, MLMODEL, MlModel, parse_mlmodel
from salver.stores.sources.archives import card_of
from salver.stores.sources.fetched import FetchedModel, Progress
from salver.stores.sources.staging import stage
from salver.words.errors import InvalidInput

_MOST_BYTES: Final = 1 << 20


class MlflowFolder:
    """A :class:`~salver.stores.sources.Source` over a folder with an ``MLmodel``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<MlflowFolder {self._folder}>"

    def fetch(self, folder: Path, progress: Progress) -> FetchedModel:
        """See the protocol. Its pointer is the model's own id, where MLflow gave one."""
        path, said = arrange(self._folder, folder / "model")
        source = f"{self._folder.absolute()}{said.model_id and f'#{said.model_id}'}"
        parents = parents_of(said.run_id)
        return FetchedModel(path, source, card_of(path), said.tags, {}, parents)


def parents_of(run_id: str) -> tuple[tuple[Literal["data", "run"], str], ...]:
    """Return the run that made a model, as its parent; empty without one."""
    if not run_id:
        return ()
    return (("run", f"mlflow:{run_id}"),)


def is_mlflow(folder: Path) -> bool:
    """Return whether a folder is a model that MLflow wrote. Blocking."""
    return (folder / MLMODEL).is_file()


def arrange(source: Path, target: Path) -> tuple[Path, MlModel]:
    """Copy the model of a folder into a new one; return its path and its ``MLmodel``. Blocking.

    Raises:
        InvalidInput: it is no model that a backend runs.
        StoreFailed: it cannot be read.
    """
    try:
        with (source / MLMODEL).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise StoreFailed(f"{source / MLMODEL} cannot be read: {error.strerror}") from error
    said = parse_mlmodel(content, str(source / MLMODEL), lambda path: (source / path).exists())
    target.mkdir()
    for name in BESIDE:
        if (source / name).is_file():
            stage(source / name, target / name, source)
    stage(_innermost(source, said), target, source)
    return target, said


def _innermost(source: Path, said: MlModel) -> Path:
    """Return what the framework wrote: Keras and PyTorch put ``model`` or ``model.*`` below ``data``."""
    path = source / said.artefact
    if not path.is_dir():
        return path
    models = sorted(each for each in path.iterdir() if each.name == "model" or each.stem == "model")
    if len(models) > 1:
        names = ", ".join(each.name for each in models)
        raise InvalidInput(f"{path} holds several models: {names}", fix="Push the version that you mean.")
    return models[0] if models else path
