"""What does a request to register an archive come to, with what the archive and the operator say?

The manifest of what is to be served. It fetches nothing and waits for nothing.
"""

from typing import Final

import msgspec

from salver.dialects.torchserve.archive import ArchiveDescription
from salver.dialects.torchserve.archive_files import RUNTIMES, is_inside
from salver.dialects.torchserve.archive_store import FoundArchive, ShelfConfig
from salver.dialects.torchserve.engine.gpus import count_gpus
from salver.dialects.torchserve.model_settings import ModelSetting, Settings
from salver.dialects.torchserve.model_yaml import Wishes, workers_of
from salver.kernel.repository.bounds import machine, most_workers
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.errors import BadArchive, InvalidInput
from salver.words.handlers import FORMAT, Registration, Workers
from salver.words.messages import ModelId

_NOTHING: Final = ModelSetting()
_MOST: Final = 2**31 - 1
_MOST_NAME: Final = 255


class AtStart(msgspec.Struct, frozen=True):
    """A model to load at the start.

    Attributes:
        url: As in a registration.
        name: Empty = as in the archive.
        default_name: Where that says none, either.
        setting: From a snapshot; what it says goes before the archive.
        version: Of the snapshot, for messages.
    """

    url: str
    name: str = ""
    default_name: str = ""
    setting: ModelSetting | None = None
    version: str = ""


class HandlerStoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator may say of handlers.

    Attributes:
        shelf: Where archives may come from.
        is_open: Requests may register models and take them out.
        at_start: To load before all else, in this order.
        loads_all: And everything in the store.
        workers: Of a registration that says none; 0 = none, they are added later.
        workers_at_start: Of a model that is loaded at the start and says none.
        response_timeout_s, startup_timeout_s, queue: Where neither a request nor the archive says it.
        unregister_timeout_s: So long a model that is taken out may still answer.
        default_handler: Of archives that name none.
        options: Of every model, for the backend (``envelope``, ``decode``, …).
        settings: The ``models`` setting.
        gpus: So many are used; None = all that this machine has.
        installs_requirements: Those of archives are installed where they are loaded.
    """

    shelf: ShelfConfig = ShelfConfig()
    is_open: bool = False
    at_start: tuple[AtStart, ...] = ()
    loads_all: bool = False
    workers: int = 0
    workers_at_start: int = 1
    response_timeout_s: int = 120
    startup_timeout_s: int = 120
    queue: int = 100
    unregister_timeout_s: float = 120.0
    default_handler: str = ""
    options: dict[str, str] = {}
    settings: dict[str, dict[str, ModelSetting]] = {}
    gpus: int | None = None
    installs_requirements: bool = False

    @property
    def gpus_used(self) -> int:
        """How many."""
        return count_gpus() if self.gpus is None else self.gpus


def check(order: Registration) -> None:
    """Raises InvalidInput where a value cannot be."""
    if order.runtime and order.runtime not in RUNTIMES:
        raise InvalidInput(f"Invalid RuntimeType value: {order.runtime}", field="runtime")
    if not is_inside(order.handler.partition(":")[0]):
        raise InvalidInput(f"The handler {order.handler!r} lies outside of the archive", field="handler")
    if len(order.name) > _MOST_NAME or not order.name.isprintable():
        raise InvalidInput(f"{order.name[:_MOST_NAME]!r} cannot be a model's name", field="model_name")
    for field, value in (
        ("batch_size", order.batch_size),
        ("max_batch_delay", order.max_batch_delay_ms),
        ("response_timeout", order.response_timeout_s),
        ("startup_timeout", order.startup_timeout_s),
    ):
        if value is not None:
            check_number(field, value)
    if order.initial_workers is not None and order.initial_workers > 0:
        check_number("initial_workers", order.initial_workers, most_workers(machine()))


def check_number(field: str, value: int, most: int = _MOST) -> None:
    """Raises InvalidInput where there cannot be so many."""
    if not 0 <= value <= most:
        to = "on" if most == _MOST else f"to {most}"
        raise InvalidInput(f"{field} is {value}, and must be from 0 {to}", field=field)


def manifest_of(
    order: Registration,
    found: FoundArchive,
    said: ArchiveDescription,
    config: HandlerStoreConfig,
    start: AtStart | None = None,
) -> Manifest:
    """What is to be served. Blocking.

    Args:
        said: By the archive.
        start: It is loaded at the start.

    Raises:
        BadArchive: nobody says what it is called, or it has gone.
        InvalidInput: it wants more workers than this machine bears.
    """
    archive = said.archive
    name = order.name or archive.name or (start.default_name if start and archive.handler else "")
    if not name:
        raise BadArchive("Model name is not defined.", fix=f"{found.path.name} has none in a manifest.")
    id = ModelId(name, archive.version)
    options = {**config.options, "url": order.url}
    handler = order.handler or ("" if archive.handler else config.default_handler)
    options |= {"handler": handler} if handler else {}
    options |= {"runtime": order.runtime or archive.runtime}
    workers = _workers(id, order, said, config, start)
    check_number("minWorkers", workers.least, most_workers(machine()))
    try:
        stat = found.path.stat()
    except OSError as error:  # it has gone meanwhile
        raise BadArchive(f"{found.path.name} cannot be read: {error.strerror or error}") from error
    body = f"{found.path} {stat.st_mtime_ns} {stat.st_size} {stat.st_ino} {sorted(options.items())}"
    return Manifest(
        id=id,
        path=found.path,
        format=FORMAT,
        backend=FORMAT,
        config=ModelConfig(versions=Versions(all=True), workers=workers, options=options),
        fingerprint=f"{body} {workers}",
        body=body,
        bytes=stat.st_size,
        home=found.path,
    )


def _workers(
    id: ModelId,
    order: Registration,
    said: ArchiveDescription,
    config: HandlerStoreConfig,
    start: AtStart | None,
) -> Workers:
    count = config.workers if start is None else config.workers_at_start
    defaults = Workers(
        count,
        count,
        response_timeout_s=config.response_timeout_s,
        startup_timeout_s=config.startup_timeout_s,
        queue=config.queue,
    )
    told = config.settings.get(id.name, {}).get(id.version, _NOTHING).wishes
    if start is not None and start.setting is not None:
        asked = msgspec.structs.replace(start.setting.wishes, is_final=True)
    else:
        least = None if order.initial_workers is None else max(0, order.initial_workers)
        asked = Wishes(
            least,
            least,
            order.batch_size,
            order.max_batch_delay_ms,
            order.response_timeout_s,
            order.startup_timeout_s,
        )
        if start is None:  # how many workers, the setting says of models of the start
            told = msgspec.structs.replace(told, least=None, most=None)
    return workers_of(defaults, told, said.yaml, asked)


def of_snapshot(settings: Settings) -> tuple[AtStart, ...]:
    """What a snapshot says, to load at the start."""
    return tuple(
        AtStart(setting.file or setting.url, name, setting=setting, version=version)
        for name, versions in settings.items()
        for version, setting in versions.items()
    )


def name_of(url: str) -> str:
    """The name of an archive that says none, of its file (TS-C2).

    >>> name_of("models/my model-2.mar")
    'my_model_2'
    """
    file = url.rpartition("/")[2]
    stem = file.rpartition(".")[0] if ".mar" in file or ".model" in file else file
    return "".join(each if each.isascii() and (each.isalnum() or each == "_") else "_" for each in stem)
