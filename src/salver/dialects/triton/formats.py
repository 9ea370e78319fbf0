"""Formats of the files of Triton's models in a repository."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from salver.kernel.repository import Formats
from salver.kernel.repository.ports import ForeignConfig, UnreadableConfig
from salver.lazy import lazy_imports
from salver.words.errors import InvalidInput

with lazy_imports():
    from salver.dialects.triton.config.pbtxt import parse_json, parse_pbtxt
    from salver.dialects.triton.config.translate import Translation, missing_backend
    from salver.dialects.triton.model_config import model_config_class
    from salver.dialects.triton.model_folders import open_folder
    from salver.kernel.repository import bounds


_STRICT: Final = "Without --disable-auto-complete-config it is completed from the model"
#: Fields that Triton checks when it reads a configuration; it checks all others when it loads the model.
_READ_FIRST: Final = frozenset(
    {"name", "max_batch_size", "dynamic_batching", "sequence_batching", "ensemble_scheduling"}
)
#: Paths of bounded numbers that have another name in Triton's configuration.
_FIELDS: Final[Mapping[str, str]] = {
    "batching.max_delay_ms": "dynamic_batching.max_queue_delay_microseconds",
    "batching.max_queue": "dynamic_batching.default_queue_policy.max_queue_size",
    "batching.max_rows": "max_batch_size",
    "batching.preferred_rows": "dynamic_batching.preferred_batch_size",
    "ensemble.max_inflight_requests": "ensemble_scheduling.max_inflight_requests",
    "instances.count": "instance_group.count",
    "instances.rate_limits.count": "instance_group.count",
    "instances.threads": "parameters.intra_op_thread_count",
    "sequences.candidates": "sequence_batching.oldest.max_candidate_sequences",
    "sequences.states": "sequence_batching.state",
    "warmup.free_dim": "model_warmup.inputs.dims",
    "warmup.rounds": "model_warmup.count",
    "warmup.rows": "model_warmup.batch_size",
    "warmup.samples": "model_warmup.inputs.dims",
}


class TritonConfigFormat:
    """Reads ``config.pbtxt`` and the configurations of load requests."""

    def parse(self, content: bytes, origin: str, name: str) -> ForeignConfig:
        """Return the configuration in a file. Raises UnreadableConfig or InvalidInput."""
        return _checked(lambda: parse_pbtxt(content, origin, name), f"{origin}: ", name)

    def parse_request(self, text: str, name: str) -> ForeignConfig:
        """Return the configuration in a load request's JSON. Raises as :meth:`parse`."""
        return _checked(lambda: parse_json(text, name), "", name)

    def missing_backend(self, backend: str) -> str:
        """Return the error text for a backend that only Triton has; empty for others."""
        return missing_backend(backend)

    def missing_file(self, path: Path) -> str:
        """Return the error text for a model without its file where Triton needs one."""
        return f"failed to open text file for read {path}: No such file or directory. {_STRICT}"


def _checked(parse: Callable[[], Translation], prefix: str, name: str) -> ForeignConfig:
    """Return the configuration, with numbers within their bounds."""
    try:
        parsed = parse()
        if beyond := bounds.misfit(parsed.config):
            field = _FIELDS.get(beyond.path, beyond.path)
            raise InvalidInput(f"{prefix}`{field}` {beyond.problem}", field=field)
    except InvalidInput as error:
        if error.field.split(".")[0] in _READ_FIRST:
            raise UnreadableConfig(error.message, field=error.field, fix=error.fix) from error
        raise
    return _as_foreign(parsed, name)


def _as_foreign(parsed: Translation, name: str) -> ForeignConfig:
    message = model_config_class().FromString(parsed.message)
    leaves_rows = not message.HasField("max_batch_size")
    incomplete = ""  # with --disable-auto-complete-config
    if not message.backend and not message.platform:
        incomplete = f"must specify 'platform' or 'backend' for '{name}'. {_STRICT}"
    elif message.platform != "ensemble" and not (message.input and message.output):
        side = "outputs" if message.input else "inputs"
        incomplete = f"unable to load model '{name}', configuration expects 0 {side}. {_STRICT}"
    message.ClearField("instance_group")
    message.ClearField("version_policy")
    return ForeignConfig(
        config=parsed.config,
        label_files=parsed.labels,
        notices=parsed.notices,
        source=parsed.message,
        identity=message.SerializeToString(deterministic=True),
        parameters={key: parameter.string_value for key, parameter in message.parameters.items()},
        leaves_rows=leaves_rows,
        incomplete=incomplete,
    )


FORMATS: Final = Formats(configs={"config.pbtxt": TritonConfigFormat()}, open_folder=open_folder)
