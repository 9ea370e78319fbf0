"""Folders of models in load requests of SageMaker's multi-model endpoints (TR-V2).

A folder is a model, or holds one, or holds an ensemble with its members. The path comes from outside.
"""

from pathlib import Path
from typing import Final

from salver.dialects.triton.config.pbtxt import FILE, is_ensemble, renamed
from salver.kernel.repository.names import is_padded_version, is_visible
from salver.kernel.repository.settings import MAX_CONFIG
from salver.kernel.repository.uploads import Upload
from salver.words.errors import InvalidInput

#: The platform unpacks models here; the endpoint's owner chose them, so they may be programs.
TRUSTED: Final = Path("/opt/ml/models")
_SYSTEM: Final = tuple(Path(path) for path in ("/dev", "/proc", "/sys"))
_MOST_MODELS: Final = 64


def open_folder(name: str, url: str) -> Upload:
    """Return the upload that replaces a model. Blocking.

    Raises:
        InvalidInput: There is no such folder, or it holds no model, or several without an ensemble.
    """
    root = Path(url)
    folders: list[Path] | None = None
    try:
        if root.is_absolute():
            root = root.resolve(strict=True)
            if root.is_dir() and not any(map(root.is_relative_to, _SYSTEM)):
                folders = sorted(f for f in root.iterdir() if f.is_dir() and is_visible(f.name))
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"'{url}' cannot be read: {error}", field="url") from error
    if folders is None:
        raise InvalidInput(f"'{url}' is not a folder of models", field="url", fix="Give an absolute path.")
    models = [folder for folder in folders if not is_padded_version(folder.name)]
    if (root / FILE).exists() or not models:
        main, models = root, []
    else:
        main = _choose(models, url)
    return Upload(
        renamed(_config(main), name),
        folder=main,
        members={folder.name: folder for folder in models if folder != main},
        is_trusted=root.is_relative_to(TRUSTED),
    )


def _choose(models: list[Path], url: str) -> Path:
    """Return the only model, or the only ensemble."""
    if len(models) > _MOST_MODELS:
        raise InvalidInput(
            f"'{url}' holds {len(models)} models; at most {_MOST_MODELS} are allowed", field="url"
        )
    if len(models) > 1:
        models = [folder for folder in models if is_ensemble(_config(folder))]
    if len(models) != 1:
        raise InvalidInput(
            f"'{url}' holds several models, and {len(models) or 'none'} of them is an ensemble",
            field="url",
            fix="Give each model an archive of its own, or one ensemble with its members.",
        )
    return models[0]


def _config(folder: Path) -> bytes:
    """Return the model's ``config.pbtxt``; empty if there is none."""
    try:
        with (folder / FILE).open("rb") as file:
            return file.read(MAX_CONFIG)
    except OSError:
        return b""
