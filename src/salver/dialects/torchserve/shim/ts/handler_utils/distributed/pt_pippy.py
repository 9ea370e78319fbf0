"""PiPPy pipelines of models."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ts.handler_utils.libraries import needed

logger = logging.getLogger(__name__)

_BY = "a model with a 'pippy' configuration"


def initialize_rpc_workers(local_rank: int, world_size: int, ctx: Any) -> None:
    """Connect the processes of a group."""
    rpc = torch.distributed.rpc
    config = ctx.model_yaml_config["pippy"]
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=config["num_worker_threads"], rpc_timeout=config["rpc_timeout"]
    )
    devices = torch.cuda.device_count()
    for rank in range(world_size):
        options.set_device_map(f"worker{rank}", {local_rank % devices: rank % devices})
    rpc.init_rpc(f"worker{local_rank}", rank=local_rank, world_size=world_size, rpc_backend_options=options)


def get_pipeline_driver(model: Any, world_size: int, ctx: Any) -> Any:
    """Return the driver of a model's stages; for Hugging Face the model, whose ``forward`` runs them.

    Raises:
        LoadFailed: PiPPy is not installed.
        ValueError: the model's configuration lacks a key.
    """
    pippy, handler = _sections(ctx.model_yaml_config)
    index = handler.get("index_filename")
    index_file = None if index is None else Path(handler["model_path"]) / index
    if index_file is not None and not index_file.exists():
        raise ValueError(f"Index file '{index_file}' not found")
    library = needed(_BY, "pippy", "torchpippy")
    is_hugging = pippy["model_type"] == "HF"
    model.eval()
    taken = pippy["input_names"]
    fixed = {
        each.name: each.default
        for each in inspect.signature(model.forward).parameters.values()
        if each.name not in taken
    }
    tracer = None
    if is_hugging:
        tracer = needed(_BY, "pippy.hf", "torchpippy").PiPPyHFTracer()
        if "bloom" in str(type(model)):
            fixed.setdefault("deprecated_arguments", {})
    logger.info("Initializing the model pipeline")
    driver, _ = library.all_compile(
        model,
        num_ranks=world_size,
        num_chunks=pippy.get("chunks", 1),
        schedule="FillDrain",
        split_policy=library.split_into_equal_size(world_size),
        tracer=tracer,
        concrete_args=fixed,
        index_filename=None if index_file is None else str(index_file),
        checkpoint_prefix=None,
    )
    if not is_hugging:
        return driver
    needed(_BY, "pippy.hf", "torchpippy").inject_pipeline_forward(model, driver)
    return model


def _sections(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    wanted = {"pippy": ("input_names", "model_type"), "handler": ("model_path",)}
    for section, keys in wanted.items():
        for key in keys:
            if key not in config.get(section, {}):
                raise ValueError(f"Missing '{section}.{key}' key in YAML config")
    return config["pippy"], config["handler"]
