"""Files that tensorflow_model_server's flags name, besides the list of models.

They are protobuf in text format: certificates (TF-C7), the path of the metrics page (TF-C6) and the
configuration of platforms (TF-C8, TF-C9).
"""

import atexit
import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from salver.dialects.tensorflow import tf_text
from salver.dialects.tensorflow.reloading import read
from salver.words.errors import InvalidInput, SalverError, Unsupported

_PAGE: Final = "/monitoring/prometheus/metrics"
_ADAPTERS: Final = ("SavedModelBundleSourceAdapterConfig", "SessionBundleSourceAdapterConfig")
_TFRT: Final = "TfrtSavedModelSourceAdapterConfig"
_NAMES_TFRT: Final = re.compile(rb"^[^#\n]*" + _TFRT.encode(), re.MULTILINE)
#: Fields of a SessionBundleConfig that have an effect here.
_READ: Final = frozenset(
    {
        "batching_parameters",
        "saved_model_tags",
        "enable_model_warmup",
        "model_warmup_options.num_request_iterations",
        "prefer_tflite_model",
        "enable_per_model_batching_params",
        "session_config.intra_op_parallelism_threads",
        "session_config.inter_op_parallelism_threads",
    }
)
_NESTED: Final = frozenset({"model_warmup_options", "session_config"})


class Platform(msgspec.Struct, frozen=True):
    """Configuration of a platform.

    Attributes:
        batching: A BatchingParameters message; None = no batching.
        intra_op, inter_op: Threads; 0 = automatic.
        warmups: Runs of each warm-up record; 0 = the default.
        notices: Notices about settings without effect.
    """

    batching: Any = None
    tags: str = ""
    warms_up: bool = True
    warmups: int = 0
    prefers_tflite: bool = False
    has_own_batching: bool = False
    intra_op: int = 0
    inter_op: int = 0
    notices: tuple[str, ...] = ()


def parse_file(path: str, kind: str) -> Any:
    """Return the message in a file; an empty one without a path. Raises InvalidInput."""
    return tf_text.parse(read(path) if path else b"", kind, path)


@contextlib.contextmanager
def naming(file: str) -> Iterator[None]:
    """Add the file's name to errors about its content. Raises InvalidInput."""
    try:
        yield
    except SalverError as error:
        raise InvalidInput(f"{file}: {error}") from error


def metrics_path(file: str) -> str:
    """Return the further path of the metrics page; empty = none. Raises InvalidInput."""
    if not file:
        return ""
    config = parse_file(file, "MonitoringConfig").prometheus_config
    if not config.enable:
        return ""
    path = config.path or _PAGE
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or set(path) & set("?# %"):
        raise InvalidInput(
            f"{file}: prometheus_config.path {path!r} is not a path", fix="Write /metrics, for example."
        )
    return str(path)


def tls(file: str) -> tuple[str, str, str]:
    """Return the files of certificate, key and callers' authority; empty = no encryption.

    The PEM texts are written to a folder that only this user can read and that is removed at exit.
    Raises InvalidInput.
    """
    if not file:
        return "", "", ""
    config = parse_file(file, "SSLConfig")
    if not config.server_key or not config.server_cert:
        raise InvalidInput(f"{file}: an SSLConfig needs server_key and server_cert, as PEM texts")
    if config.client_verify and not config.custom_ca:
        raise InvalidInput(
            f"{file}: client_verify needs custom_ca, the PEM text of the authority of callers' certificates"
        )
    folder = Path(tempfile.mkdtemp(prefix="salver-tls-"))  # mode 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def write(name: str, text: str) -> str:
        (folder / name).write_text(text)
        return str(folder / name)

    authority = ""
    if config.client_verify:
        authority = write("ca.pem", config.custom_ca)
    return write("cert.pem", config.server_cert), write("key.pem", config.server_key), authority


def platform(file: str) -> Platform:
    """Return the configuration of the platform ``tensorflow`` in a PlatformConfigMap.

    Raises:
        InvalidInput, Unsupported: The file is wrong, or names something else.
    """
    if not file:
        return Platform()
    content = read(file)
    if _NAMES_TFRT.search(content):  # its keys are about a runtime that Salver does not have (TF-C10)
        return Platform(notices=(f"{file}: {_TFRT} is accepted and has no effect here",))
    configs = tf_text.parse(content, "PlatformConfigMap", file).platform_configs
    if list(configs) != ["tensorflow"]:
        raise InvalidInput(
            f'{file}: there is one platform here, "tensorflow", and not {", ".join(configs) or "none"}'
        )
    packed = configs["tensorflow"].source_adapter_config
    name = packed.type_url.rpartition(".")[2]
    if name not in _ADAPTERS:
        raise Unsupported(
            f"{file}: the source adapter {packed.type_url or 'none'!r} is not known here",
            fix=f"Use tensorflow.serving.{_ADAPTERS[0]}.",
        )
    adapter = tf_text.unpacked(packed)
    bundle = adapter.legacy_config if name == _ADAPTERS[0] else adapter.config
    threads = bundle.session_config
    keys: list[str] = []
    for field, value in bundle.ListFields():
        if field.name in _NESTED:
            keys += [f"{field.name}.{inner.name}" for inner, _ in value.ListFields()]
        else:
            keys.append(field.name)
    return Platform(
        bundle.batching_parameters if bundle.HasField("batching_parameters") else None,
        ",".join(bundle.saved_model_tags),
        bundle.enable_model_warmup,
        bundle.model_warmup_options.num_request_iterations.value,
        bundle.prefer_tflite_model,
        bundle.enable_per_model_batching_params,
        threads.intra_op_parallelism_threads,
        threads.inter_op_parallelism_threads,
        tuple(f"{file}: {key} is accepted and has no effect here" for key in keys if key not in _READ),
    )
