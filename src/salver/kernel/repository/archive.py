"""Which models lie in a folder that somebody unpacked for this server?

As SageMaker does for its multi-model endpoints (TR-V2): one model, right in the folder or in a folder below,
or an ensemble beside its members. The path comes from outside.
"""

from pathlib import Path
from typing import Final

from salver.dialects.triton.config.pbtxt import is_ensemble, renamed
from salver.kernel.repository.names import is_padded_version, is_visible
from salver.kernel.repository.settings import MAX_CONFIG, PBTXT
from salver.kernel.repository.uploads import Brought
from salver.words.errors import InvalidInput

#: Where the platform unpacks models. Its owner chose them, so that they may be programs.
TRUSTED: Final = Path("/opt/ml/models")
_SYSTEM: Final = tuple(Path(path) for path in ("/dev", "/proc", "/sys"))
_MOST_MODELS: Final = 64


def open_archive(name: str, url: str) -> Brought:
    """What stands for the model of that name from now on. Blocking.

    Raises:
        InvalidInput: there is no such folder, or it holds no model, or several without an ensemble.
    """
    root = Path(url)
    try:
        root = root.resolve(strict=True) if root.is_absolute() else root
        is_fine = root.is_absolute() and root.is_dir() and not any(map(root.is_relative_to, _SYSTEM))
        folders = sorted(f for f in root.iterdir() if f.is_dir() and is_visible(f.name)) if is_fine else []
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"'{url}' cannot be read: {error}", field="url") from error
    if not is_fine:
        raise InvalidInput(f"'{url}' is no folder of models", field="url", fix="Give an absolute path.")
    models = [folder for folder in folders if not is_padded_version(folder.name)]
    if (root / PBTXT).exists() or not models:
        main, members = root, []
    else:
        main = _chosen(models, url)
        members = [folder for folder in models if folder != main]
    return Brought(
        renamed(_config(main), name),
        folder=main,
        members={folder.name: folder for folder in members},
        is_trusted=root.is_relative_to(TRUSTED),
    )


def _chosen(models: list[Path], url: str) -> Path:
    """The one model, or the one ensemble."""
    if len(models) > _MOST_MODELS:
        raise InvalidInput(
            f"'{url}' holds {len(models)} models; at most {_MOST_MODELS} go together", field="url"
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
    """The model's ``config.pbtxt``; empty if there is none."""
    try:
        with (folder / PBTXT).open("rb") as file:
            return file.read(MAX_CONFIG)
    except OSError:
        return b""
