"""Configuration of a model, from the file beside its versions or from a load request."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Final

import msgspec

from salver.kernel.repository.config import RepositoryConfig
from salver.kernel.repository.ports import ConfigFormat, ForeignConfig, Formats, UnreadableConfig
from salver.lazy import lazy_imports
from salver.stores import Store, StoreFailed
from salver.words.artifacts import Logging, ModelConfig, Versions, Warmup
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec

with lazy_imports():
    from salver.kernel.repository.checks import sequences
    from salver.kernel.repository.toml import parse_toml


TOML: Final = "salver.toml"
MAX_CONFIG: Final = 1 << 20
_WARMUP: Final = "warmup"  # folder of warm-up data, beside the versions
_MAX_LABELS: Final = 4 << 20
_MAX_STATE: Final = 16 << 20
_DEFAULTS: Final = RepositoryConfig()
_BACKEND_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Settings(msgspec.Struct, frozen=True):
    """Configuration of a model, or the reason why it cannot be used.

    Attributes:
        files: Paths that it was read from; if one changes, the model has changed.
        problem: Why it cannot be used, or empty.
        is_unreadable: It cannot be read, as opposed to not being supported.
        own: Settings in the model's own files, if a load request replaces them; else None.
        foreign: The configuration in another server's format; None = none.
    """

    config: ModelConfig = ModelConfig()
    files: tuple[str, ...] = ()
    problem: str = ""
    is_unreadable: bool = False
    own: "Settings | None" = None
    foreign: ForeignConfig | None = None

    def leaves_rows(self) -> bool:
        """Whether it does not set the largest batch."""
        if self.foreign is None:
            return not self.files
        return self.foreign.leaves_rows


def read_settings(
    store: Store,
    folder: str,
    name: str,
    formats: Formats,
    override: str = "",
    rules: RepositoryConfig = _DEFAULTS,
) -> Settings:
    """Return the settings of the model in a folder.

    Args:
        folder: Path of the model's folder in the store.
        override: Configuration from a load request, in place of the file.
    """
    settings = _read(store, folder, name, formats, override, rules.config_name)
    if override:
        own = _read(store, folder, name, formats, "", rules.config_name)
        settings = msgspec.structs.replace(settings, own=own)
    missing = _missing_backend(settings.config.backend, formats)
    if missing and not settings.problem and program_of(settings.config.backend, rules) is None:
        where = store.local_path((*settings.files, folder)[0])
        return msgspec.structs.replace(settings, problem=f"{where}: {missing}")
    required = rules.required_config
    if not required or settings.problem or (settings.files and settings.foreign is None):
        return settings
    if settings.foreign is None:
        problem = formats.configs[required].missing_file(store.local_path(join(folder, required)))
    else:
        problem = settings.foreign.incomplete
    if problem:
        return msgspec.structs.replace(settings, problem=problem, is_unreadable=True)
    if not settings.leaves_rows():
        return settings
    alone = msgspec.structs.replace(settings.config.batching, enabled=False, has_rows=False)
    return msgspec.structs.replace(settings, config=msgspec.structs.replace(settings.config, batching=alone))


def _missing_backend(backend: str, formats: Formats) -> str:
    """Return an error text for a backend that only the other server has; else nothing."""
    return next(filter(None, (form.missing_backend(backend) for form in formats.configs.values())), "")


def program_of(backend: str, rules: RepositoryConfig) -> Path | None:
    """Return the program of a Python-written backend (TR-A5), ``NAME/model.py`` in the backends' folder."""
    if not rules.backend_directory or not _BACKEND_NAME.fullmatch(backend):
        return None
    code = Path(rules.backend_directory) / backend / "model.py"
    if code.is_file():
        return code.resolve()
    return None


def _read(
    store: Store, folder: str, name: str, formats: Formats, override: str, config_name: str
) -> Settings:
    found = dict(_present(store, folder, formats, config_name))
    files = tuple(join(folder, file) for file in found)
    if override:
        requested = next(iter(formats.configs.values()), None)
        if requested is None:
            return Settings(files=files, problem="no configuration format of requests is known here")
        return _foreign(store, folder, files, lambda: requested.parse_request(override, name))
    if len(found) > 1:
        return Settings(
            files=files,
            problem=f"{store.local_path(folder)} has both {' and '.join(found)}; keep one of them",
            is_unreadable=True,
        )
    if not found:
        return Settings()
    (form,) = found.values()
    origin = str(store.local_path(files[0]))
    try:
        content = store.read(files[0], MAX_CONFIG)
        if form is None:
            config, more = _with_files(store, folder, parse_toml(content, origin))
            return Settings(config, (*files, *more))
    except (InvalidInput, StoreFailed) as error:
        return Settings(files=files, problem=str(error), is_unreadable=True)
    return _foreign(store, folder, files, lambda: form.parse(content, origin, name))


def _present(
    store: Store, folder: str, formats: Formats, config_name: str
) -> Iterator[tuple[str, ConfigFormat | None]]:
    """Yield the configuration files of a model, each with its format; None for Salver's own."""
    if store.stat(join(folder, TOML)) is not None:
        yield TOML, None
    for file, form in formats.configs.items():
        chosen = f"configs/{config_name}{PurePath(file).suffix}"
        if config_name and store.stat(join(folder, chosen)) is not None:
            yield chosen, form
        elif store.stat(join(folder, file)) is not None:
            yield file, form


def identity(settings: Settings) -> str:
    """Return the part of the settings on which a version depends, as text.

    The number of instances, the wanted versions and their labels are left out.

    >>> from salver.words.artifacts import Instances
    >>> one, two = (Settings(ModelConfig(instances=Instances(count=n))) for n in (1, 2))
    >>> identity(one) == identity(two)
    True
    """
    config = settings.config
    instances = msgspec.structs.replace(config.instances, count=0)
    text = repr(
        msgspec.structs.replace(
            config, instances=instances, versions=Versions(), labels={}, default_label="", logging=Logging()
        )
    )
    if settings.foreign is None:
        return text
    return text + settings.foreign.identity.hex()


def _foreign(
    store: Store, folder: str, files: tuple[str, ...], parse: Callable[[], ForeignConfig]
) -> Settings:
    """Return the settings from another server's configuration, with the files that it names."""
    try:
        foreign = parse()
        paths = {output: join(folder, file) for output, file in foreign.label_files.items()}
        labels = {output: _read_labels(store, path) for output, path in paths.items()}
        config, more = _with_files(store, folder, foreign.config)
    except (InvalidInput, StoreFailed) as error:
        return Settings(files=files, problem=str(error), is_unreadable=isinstance(error, UnreadableConfig))
    outputs = tuple(_labelled(spec, labels.get(spec.name, ())) for spec in config.outputs)
    config = msgspec.structs.replace(config, outputs=outputs)
    return Settings(config, files + tuple(sorted({*paths.values(), *more})), foreign=foreign)


def _with_files(store: Store, folder: str, config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...]]:
    """Read or locate the files that a configuration names; return it with their paths in the store."""
    config, states = _with_states(store, folder, config)
    config, warmups = _located(store, folder, config)
    return config, (*states, *warmups, *_of_environment(store, folder, config))


def _with_states(store: Store, folder: str, config: ModelConfig) -> tuple[ModelConfig, list[str]]:
    """Return the configuration with the initial states of sequences, and the paths of their files.

    Raises:
        UnreadableConfig: a file is too short.
        StoreFailed: a file is missing or too large.
    """
    states, paths = [], []
    for state in config.sequences.states:
        if state.initial_file:
            paths.append(join(folder, f"initial_state/{state.initial_file}"))
            state = msgspec.structs.replace(state, content=store.read(paths[-1], _MAX_STATE))
            if problem := sequences.content_misfit(state):
                raise UnreadableConfig(problem, field="sequence_batching.state")
        states.append(state)
    if not paths:
        return config, paths
    table = msgspec.structs.replace(config.sequences, states=tuple(states))
    return msgspec.structs.replace(config, sequences=table), paths


def _located(store: Store, folder: str, config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return the configuration with local paths of warm-up samples, and their paths in the store."""
    paths: set[str] = set()

    def located(file: str) -> str:
        path = join(folder, f"{_WARMUP}/{file}")
        paths.add(path)
        return str(store.local_path(path))

    samples = tuple(
        msgspec.structs.replace(
            sample,
            inputs={
                name: msgspec.structs.replace(tensor, file=located(tensor.file)) if tensor.file else tensor
                for name, tensor in sample.inputs.items()
            },
        )
        for sample in config.warmup.samples
    )
    if not paths:
        return config, ()
    warmup: Warmup = msgspec.structs.replace(config.warmup, samples=samples)
    return msgspec.structs.replace(config, warmup=warmup), tuple(sorted(paths))


def _of_environment(store: Store, folder: str, config: ModelConfig) -> tuple[str, ...]:
    """Return the path of the file that an environment is made of, if it is in the model's folder."""
    path = config.environment.path
    if not path or PurePath(path).is_absolute():
        return ()
    entry = store.stat(join(folder, path))
    if entry is None or entry.is_folder:
        return ()
    return (join(folder, path),)


def join(folder: str, name: str) -> str:
    """Return the path of a name in a folder; an empty folder is the root."""
    if folder:
        return f"{folder}/{name}"
    return name


def _labelled(spec: TensorSpec, labels: tuple[str, ...]) -> TensorSpec:
    if labels:
        return msgspec.structs.replace(spec, labels=labels)
    return spec


def _read_labels(store: Store, path: str) -> tuple[str, ...]:
    text = store.read(path, _MAX_LABELS).decode("utf-8", "replace")
    return tuple(text.removesuffix("\n").replace("\r\n", "\n").split("\n"))
