"""DeepSpeed engines of models."""

import json
from pathlib import Path
from typing import Any

from ts.handler_utils.libraries import needed


def create_checkpoints_json(model_path: str, checkpoints_json: str) -> None:
    """Write the list of a model's weights (``.bin``, ``.pt``) for DeepSpeed."""
    files = [str(path) for path in Path(model_path).rglob("*.[bp][it][n]") if path.is_file()]
    described = {"type": "ds_model", "checkpoints": files, "version": 1.0}
    Path(checkpoints_json).write_text(json.dumps(described))


def get_ds_engine(model: Any, ctx: Any) -> Any:
    """Return DeepSpeed's engine for a model.

    Raises:
        LoadFailed: DeepSpeed is not installed.
        ValueError: the model's configuration has no ``deepspeed``, or names a missing file.
    """
    folder = Path(ctx.system_properties.get("model_dir"))
    config = ctx.model_yaml_config
    model_path = config["handler"]["model_path"]
    if "deepspeed" not in config:
        raise ValueError(f"{ctx.model_name} has no deepspeed config in model config yaml file")
    settings, checkpoint = None, None
    if "config" in config["deepspeed"]:
        settings = folder / config["deepspeed"]["config"]
        if not settings.exists():
            raise ValueError(f"{ctx.model_name} has no deepspeed config file {settings}")
    library = needed("a model with a 'deepspeed' configuration", "deepspeed")
    if "checkpoint" in config["deepspeed"]:
        checkpoint = folder / config["deepspeed"]["checkpoint"]
        create_checkpoints_json(model_path, str(checkpoint))
    return library.init_inference(
        model,
        config=None if settings is None else str(settings),
        base_dir=model_path,
        checkpoint=None if checkpoint is None else str(checkpoint),
    )
