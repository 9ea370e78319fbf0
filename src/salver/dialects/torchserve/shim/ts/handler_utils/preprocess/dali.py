"""NVIDIA DALI pipelines for pictures."""

from pathlib import Path
from typing import Any

from ts.handler_utils.libraries import needed


def get_dali_pipeline(ctx: Any) -> Any:
    """Return the archive's own pipeline (``dali.pipeline_file``), or the default one for ImageNet models.

    Raises:
        LoadFailed: DALI is not installed.
        ValueError: the model's configuration has no ``dali``.
        RuntimeError: the file that it names is missing.
    """
    if "dali" not in ctx.model_yaml_config:
        raise ValueError(f"{ctx.model_name} has no dali config in model config yaml file")
    config = ctx.model_yaml_config["dali"]
    settings = {key: config[key] for key in ("batch_size", "num_threads", "device_id", "seed")}
    if "pipeline_file" not in config:
        return _usual(settings)
    file = Path(ctx.system_properties.get("model_dir")) / config["pipeline_file"]
    if not file.exists():
        raise RuntimeError("Missing dali pipeline file.")
    kind = needed("a model with a 'dali' configuration", "nvidia.dali.pipeline", "nvidia-dali").Pipeline
    pipeline = kind.deserialize(filename=str(file), prefetch_queue_depth=1, **settings)
    pipeline._max_batch_size = settings["batch_size"]
    pipeline._num_threads = settings["num_threads"]
    pipeline._device_id = settings["device_id"]
    return pipeline


def _usual(settings: dict[str, Any]) -> Any:
    """Return a pipeline that decodes, scales the shorter side to 256, crops 224 × 224 and normalises for
    ImageNet.
    """
    dali = needed("a model with a 'dali' configuration", "nvidia.dali", "nvidia-dali")
    pipeline = dali.Pipeline(prefetch_queue_depth=1, **settings)
    with pipeline:
        files = dali.fn.external_source(dtype=dali.types.UINT8, name="source")
        resized = dali.fn.resize(
            dali.fn.decoders.image(files, device="mixed"),
            size=[256],
            subpixel_scale=False,
            interp_type=dali.types.DALIInterpType.INTERP_LINEAR,
            antialias=True,
            mode="not_smaller",
        )
        normal = dali.fn.crop_mirror_normalize(
            resized,
            crop_pos_x=0.5,
            crop_pos_y=0.5,
            crop=(224, 224),
            mean=[255 * mean for mean in (0.485, 0.456, 0.406)],
            std=[255 * deviation for deviation in (0.229, 0.224, 0.225)],
        )
        pipeline.set_outputs(normal)
    pipeline.build()
    return pipeline
