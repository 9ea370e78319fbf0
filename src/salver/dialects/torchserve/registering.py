"""Manifests of handlers, from a registration, its archive, and the operator's settings.

Nothing is fetched or awaited here.
"""

import re
from typing import Final

import msgspec

from salver.dialects.torchserve.archive import ArchiveDescription
from salver.dialects.torchserve.archive_files import RUNTIMES, is_inside
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig, FoundArchive
from salver.dialects.torchserve.model_settings import ModelSetting, Settings
from salver.dialects.torchserve.model_yaml import WorkerSettings, allowed_range, workers_of
from salver.kernel.repository.bounds import machine, most_workers
from salver.machine import count_gpus
from salver.words.artifacts import Manifest, ModelConfig, Versions
from salver.words.errors import BadArchive, InvalidInput
from salver.words.handlers import FORMAT, Registration, Workers
from salver.words.messages import ModelId

_NOTHING: Final = ModelSetting()
_MOST: Final = 2**31 - 1
_MOST_NAME: Final = 255


class StartupModel(msgspec.Struct, frozen=True):
    """A model to load at the start.

    Attributes:
        url: As in a registration.
        name: Empty = as in the archive.
        default_name: Name if the archive has none.
        setting: Setting of a snapshot; it overrides the archive.
        version: Version of the snapshot, for messages.
    """

    url: str
    name: str = ""
    default_name: str = ""
    setting: ModelSetting | None = None
    version: str = ""


class HandlerStoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's settings of handlers.

    Attributes:
        archive_store: Where archives may come from.
        is_open: Whether requests may register and remove models.
        at_start: Models to load first, in this order.
        loads_all: Whether everything in the store is loaded as well.
        workers: Workers of a registration without a number; 0 = none.
        workers_at_start: Workers of a model at the start without a number.
        response_timeout_s, startup_timeout_s, queue: Defaults where neither request nor archive has them.
        unregister_timeout_s: Seconds that a removed model may go on answering.
        default_handler: Handler of archives that name none.
        options: Backend options of every model (``envelope``, ``decode``, …).
        settings: The ``models`` setting.
        gpus: Maximum number of GPUs to use; None = all of this machine.
        installs_requirements: Whether the requirements of archives are installed beside them.
    """

    archive_store: ArchiveStoreConfig = ArchiveStoreConfig()
    is_open: bool = False
    at_start: tuple[StartupModel, ...] = ()
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
        """Return the number of GPUs to use."""
        return count_gpus() if self.gpus is None else self.gpus


def check(order: Registration) -> None:
    """Check the values of a registration. Raises InvalidInput."""
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
    """Check the range of a number. Raises InvalidInput."""
    if not 0 <= value <= most:
        raise InvalidInput(f"{field} is {value}, and must be {allowed_range(0, most)}", field=field)


def manifest_of(
    order: Registration,
    found: FoundArchive,
    description: ArchiveDescription,
    config: HandlerStoreConfig,
    start: StartupModel | None = None,
) -> Manifest:
    """Return the manifest of a registration. Blocking.

    Args:
        description: Description of the archive.
        start: Set if the model is loaded at the start.

    Raises:
        BadArchive: the model has no name, or the archive is gone.
        InvalidInput: it wants more workers than this machine allows.
    """
    archive = description.archive
    name = order.name or archive.name
    if start and archive.handler:
        name = name or start.default_name
    if not name:
        raise BadArchive("Model name is not defined.", fix=f"Set modelName in {found.path.name}.")
    id = ModelId(name, archive.version)
    options = {**config.options, "url": order.url, "runtime": order.runtime or archive.runtime}
    if order.handler:
        options["handler"] = order.handler
    elif config.default_handler and not archive.handler:
        options["handler"] = config.default_handler
    workers = _workers(id, order, description, config, start)
    check_number("minWorkers", workers.least, most_workers(machine()))
    try:
        stat = found.path.stat()
    except OSError as error:
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
    description: ArchiveDescription,
    config: HandlerStoreConfig,
    start: StartupModel | None,
) -> Workers:
    count = config.workers if start is None else config.workers_at_start
    defaults = Workers(
        count,
        count,
        response_timeout_s=config.response_timeout_s,
        startup_timeout_s=config.startup_timeout_s,
        queue=config.queue,
    )
    setting = config.settings.get(id.name, {}).get(id.version, _NOTHING).workers
    if start is not None and start.setting is not None:
        requested = msgspec.structs.replace(start.setting.workers, is_final=True)
        return workers_of(defaults, setting, description.yaml, requested)
    least = order.initial_workers
    if least is not None:
        least = max(0, least)
    requested = WorkerSettings(
        least,
        least,
        order.batch_size,
        order.max_batch_delay_ms,
        order.response_timeout_s,
        order.startup_timeout_s,
    )
    if start is None:  # the setting has the number of workers of models at the start only
        setting = msgspec.structs.replace(setting, least=None, most=None)
    return workers_of(defaults, setting, description.yaml, requested)


def of_snapshot(settings: Settings) -> tuple[StartupModel, ...]:
    """Return the models of a snapshot, to load at the start."""
    return tuple(
        StartupModel(setting.file or setting.url, name, setting=setting, version=version)
        for name, versions in settings.items()
        for version, setting in versions.items()
    )


def name_of(url: str) -> str:
    """Return the name for an archive without one, from its file (TS-C2).

    >>> name_of("models/my model-2.mar")
    'my_model_2'
    """
    name = url.rpartition("/")[2]
    if ".mar" in name or ".model" in name:
        name = name.rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
