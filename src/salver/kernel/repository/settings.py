"""How does a model's owner want it served? Finds and reads the file beside its versions."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from salver.dialects.triton.config.pbtxt import Unparsable, parse_json, parse_pbtxt
from salver.dialects.triton.config.sequences import check_content
from salver.dialects.triton.config.translate import Translated, no_backend
from salver.dialects.triton.model_config import model_config_class
from salver.kernel.repository import bounds
from salver.kernel.repository.config import RepositoryConfig
from salver.kernel.repository.toml import parse_toml
from salver.stores import Store, StoreFailed
from salver.words.artifacts import Logging, ModelConfig, Versions, Warmup
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec

TOML: Final = "salver.toml"
PBTXT: Final = "config.pbtxt"
_WARMUP: Final = "warmup"  # folder of warm-up data, beside the versions
MAX_CONFIG: Final = 1 << 20
_MAX_LABELS: Final = 4 << 20
_MAX_STATE: Final = 16 << 20
_WHOLE: Final = "Without --disable-auto-complete-config the model's own words stand in"
_USUAL: Final = RepositoryConfig()
#: Fields that Triton looks at when it reads a configuration; at all others when it loads the model.
_UNREADABLE: Final = frozenset(
    {"name", "max_batch_size", "dynamic_batching", "sequence_batching", "ensemble_scheduling"}
)
_BACKEND_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Settings(msgspec.Struct, frozen=True):
    """What a configuration came to.

    Attributes:
        files: Paths that it was read from; a change of one is a change of the model.
        is_triton: It is a ``config.pbtxt``.
        problem: Why it cannot be used, or empty.
        is_unreadable: The problem is one of reading it, rather than of doing what it says.
        own: What the model's own files say, where a load request says something else; else None.
        notices: What it sets without effect.
        triton: A Triton configuration, serialised.
    """

    config: ModelConfig = ModelConfig()
    files: tuple[str, ...] = ()
    is_triton: bool = False
    problem: str = ""
    notices: tuple[str, ...] = ()
    triton: bytes = b""
    is_unreadable: bool = False
    own: "Settings | None" = None

    def leaves_rows(self) -> bool:
        """It says nothing of how many rows a batch may have."""
        if not self.is_triton:
            return not self.files
        return not model_config_class().FromString(self.triton).HasField("max_batch_size")


def read_settings(
    store: Store, folder: str, name: str, override: str = "", rules: RepositoryConfig = _USUAL
) -> Settings:
    """The settings of the model in a folder.

    Args:
        folder: Path of the model's folder in the store.
        override: A Triton configuration as JSON, given by a load request, instead of the file.
    """
    settings = _read(store, folder, name, override, rules.config_name)
    if override:
        own = _read(store, folder, name, "", rules.config_name)
        settings = msgspec.structs.replace(settings, own=own)
    lack = no_backend(settings.config.backend)
    if lack and not settings.problem and program_of(settings.config.backend, rules) is None:
        where = store.local_path(settings.files[0] if settings.files else folder)
        return msgspec.structs.replace(settings, problem=f"{where}: {lack}")
    if not rules.wants_whole or settings.problem or (settings.files and not settings.is_triton):
        return settings
    where = store.local_path(_join(folder, PBTXT))
    if not settings.is_triton:
        lack = f"failed to open text file for read {where}: No such file or directory"
    else:
        lack = lacks(settings.triton, name)
    if lack:
        return msgspec.structs.replace(settings, problem=f"{lack}. {_WHOLE}", is_unreadable=True)
    if not settings.leaves_rows():
        return settings
    alone = msgspec.structs.replace(settings.config.batching, enabled=False, has_rows=False)
    return msgspec.structs.replace(settings, config=msgspec.structs.replace(settings.config, batching=alone))


def program_of(backend: str, rules: RepositoryConfig) -> Path | None:
    """Of a backend that is one (TR-A5), ``NAME/model.py`` in the folder of backends."""
    if not rules.backend_directory or not _BACKEND_NAME.fullmatch(backend):
        return None
    code = Path(rules.backend_directory) / backend / "model.py"
    return code.resolve() if code.is_file() else None


def _read(store: Store, folder: str, name: str, override: str, config_name: str) -> Settings:
    custom = f"configs/{config_name}.pbtxt"
    pbtxt = custom if config_name and store.stat(_join(folder, custom)) is not None else PBTXT
    paths = {f: _join(folder, f) for f in (TOML, pbtxt)}
    found = [f for f in (TOML, pbtxt) if store.stat(paths[f]) is not None]
    files = tuple(paths[f] for f in found)
    if override:
        return _translated(store, folder, "", files, lambda: parse_json(override, name))
    if len(found) == 2:
        return Settings(
            files=files,
            problem=f"{store.local_path(folder)} has both {TOML} and {pbtxt}; keep one of them",
            is_unreadable=True,
        )
    if not found:
        return Settings()
    origin = str(store.local_path(files[0]))
    try:
        content = store.read(files[0], MAX_CONFIG)
        if found[0] == TOML:
            config, kept = _with_files(store, folder, parse_toml(content, origin))
            return Settings(config, (*files, *kept))
    except (InvalidInput, StoreFailed) as error:
        return Settings(files=files, problem=str(error), is_triton=found[0] == pbtxt, is_unreadable=True)
    return _translated(store, folder, f"{origin}: ", files, lambda: parse_pbtxt(content, origin, name))


def of_one_version(settings: Settings) -> str:
    """Everything that they say, but for the number of instances, and for which versions are wanted and named.

    >>> from salver.words.artifacts import Instances
    >>> one, two = (Settings(ModelConfig(instances=Instances(count=n))) for n in (1, 2))
    >>> of_one_version(one) == of_one_version(two)
    True
    """
    config = settings.config
    instances = msgspec.structs.replace(config.instances, count=0)
    text = repr(
        msgspec.structs.replace(
            config, instances=instances, versions=Versions(), labels={}, default_label="", logging=Logging()
        )
    )
    if not settings.triton:
        return text
    message = model_config_class().FromString(settings.triton)
    message.ClearField("instance_group")
    message.ClearField("version_policy")
    whole: bytes = message.SerializeToString(deterministic=True)
    return text + whole.hex()


def _translated(
    store: Store,
    folder: str,
    origin: str,
    files: tuple[str, ...],
    parse: Callable[[], Translated],
) -> Settings:
    try:
        config, label_files, notices, triton = parse()
        if beyond := bounds.misfit(config):
            field = beyond.triton_path
            raise InvalidInput(f"{origin}`{field}` {beyond.problem}", field=field)
        paths = {output: _join(folder, file) for output, file in label_files.items()}
        labels = {output: _read_labels(store, path) for output, path in paths.items()}
        config, kept = _with_files(store, folder, config)
    except (InvalidInput, StoreFailed) as error:
        is_unreadable = isinstance(error, Unparsable) or error.field.split(".")[0] in _UNREADABLE
        return Settings(files=files, problem=str(error), is_triton=True, is_unreadable=is_unreadable)
    outputs = tuple(_labelled(spec, labels.get(spec.name, ())) for spec in config.outputs)
    config = msgspec.structs.replace(config, outputs=outputs)
    return Settings(config, files + tuple(sorted({*paths.values(), *kept})), True, "", notices, triton)


def _with_files(store: Store, folder: str, config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...]]:
    """With what the files that it names hold, or where they lie; and their paths in the store."""
    config, states = _with_states(store, folder, config)
    config, warmups = _located(store, folder, config)
    return config, (*states, *warmups)


def _with_states(store: Store, folder: str, config: ModelConfig) -> tuple[ModelConfig, list[str]]:
    """With the content of the files that sequences begin with, and their paths.

    Raises:
        InvalidInput, StoreFailed: a file is missing, too large or too short.
    """
    states, paths = [], []
    for state in config.sequences.states:
        if state.initial_file:
            path = f"initial_state/{state.initial_file}"
            paths.append(f"{folder}/{path}" if folder else path)
            state = msgspec.structs.replace(state, content=store.read(paths[-1], _MAX_STATE))
            if problem := check_content(state):
                raise InvalidInput(problem, field="sequence_batching.state")
        states.append(state)
    if not paths:
        return config, paths
    sequences = msgspec.structs.replace(config.sequences, states=tuple(states))
    return msgspec.structs.replace(config, sequences=sequences), paths


def _located(store: Store, folder: str, config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...]]:
    """With files of warm-up samples by where they lie on this machine; and their paths in the store."""
    paths: set[str] = set()

    def located(file: str) -> str:
        path = f"{folder}/{_WARMUP}/{file}" if folder else f"{_WARMUP}/{file}"
        paths.add(path)
        return str(store.local_path(path))

    samples = tuple(
        msgspec.structs.replace(
            sample,
            inputs={
                name: msgspec.structs.replace(told, file=located(told.file)) if told.file else told
                for name, told in sample.inputs.items()
            },
        )
        for sample in config.warmup.samples
    )
    if not paths:
        return config, ()
    warmup: Warmup = msgspec.structs.replace(config.warmup, samples=samples)
    return msgspec.structs.replace(config, warmup=warmup), tuple(sorted(paths))


def lacks(triton: bytes, name: str) -> str:
    """What a Triton configuration leaves to the model to say, or empty.

    Args:
        triton: A serialised ModelConfig.
    """
    message = model_config_class().FromString(triton)
    if not message.backend and not message.platform:
        return f"must specify 'platform' or 'backend' for '{name}'"
    if message.platform == "ensemble" or (message.input and message.output):
        return ""
    side = "outputs" if message.input else "inputs"
    return f"unable to load model '{name}', configuration expects 0 {side}"


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _labelled(spec: TensorSpec, labels: tuple[str, ...]) -> TensorSpec:
    return msgspec.structs.replace(spec, labels=labels) if labels else spec


def _read_labels(store: Store, path: str) -> tuple[str, ...]:
    text = store.read(path, _MAX_LABELS).decode("utf-8", "replace")
    return tuple(text.removesuffix("\n").replace("\r\n", "\n").split("\n"))
