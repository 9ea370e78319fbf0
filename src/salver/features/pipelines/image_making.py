"""Making of the model of a directory for images, from its files and the network's inputs and outputs."""

from collections.abc import Callable, Mapping
from typing import Final, get_args

import msgspec

from salver.backends.protocol import RunnableModel
from salver.features.pipelines.directory import ModelDirectory
from salver.features.pipelines.image_model import IMAGE, MASK, PIXELS, Decoding, ImageModel
from salver.features.pipelines.images import MOST_PIXELS, How
from salver.features.pipelines.ports import ImageTask
from salver.features.pipelines.processor import read_processor
from salver.features.pipelines.steps.images import MOST_ALLOWED
from salver.features.pipelines.tasks.images import ImageClassification, ObjectDetection
from salver.words.errors import LoadFailed
from salver.words.messages import HUGGING_FACE, Signature, described

_TASKS: Final[Mapping[str, Callable[[ModelDirectory, int], ImageTask]]] = {
    "image-classification": ImageClassification,
    "object-detection": ObjectDetection,
}
_OUTPUTS: Final = {"image-classification": {"logits"}, "object-detection": {"logits", "pred_boxes"}}
_EXPORT: Final = "Export it for {task}: optimum-cli export onnx --model {path} {path}-onnx."


def image_model(
    directory: ModelDirectory, network: RunnableModel, options: Mapping[str, str], threads: int
) -> ImageModel:
    """Return the model.

    Raises:
        LoadFailed: an option, the image processor or the network does not fit.
    """
    decoding = decoding_of(options)
    taken = _taken(directory, network.signature)
    outputs = {spec.name: spec for spec in network.signature.outputs}
    wanted = _OUTPUTS[directory.task]
    if not wanted <= outputs.keys() or (len(wanted) == 1 and len(outputs) != 1):
        raise LoadFailed(
            f"{directory.path} is for {directory.task}, whose network gives {' and '.join(sorted(wanted))}; "
            f"this one gives {', '.join(outputs)}",
            fix=_EXPORT.format(task=directory.task, path=directory.path),
        )
    processor = read_processor(directory.root, directory.config.model_type)
    sizes = processor.sizes.fixed
    if sizes and any(most >= 0 and most != own for most, own in zip(taken, sizes, strict=True)):
        raise LoadFailed(
            f"{directory.path}/preprocessor_config.json makes images of {sizes[0]} x {sizes[1]}, and the "
            f"network takes {taken[0]} x {taken[1]} (height x width)",
            fix="Export the network again, beside its own file.",
        )
    config = directory.config
    classes = outputs["logits"].shape[-1]
    if classes < 1:
        classes = config.num_labels or len(config.id2label or {}) or 2
    task = _TASKS[directory.task](directory, classes)
    # More rows in a run gain little on a CPU, since images are decoded one by one, and keep other instances
    # idle (benchmarks/raw_images.py).
    rows = 2 * max(1, threads)
    platform = HUGGING_FACE + directory.task
    signature = Signature((IMAGE,), task.outputs, True, platform, rows, converts=True)
    return ImageModel(network, processor, task, signature, decoding, threads)


def decoding_of(options: Mapping[str, str]) -> Decoding:
    """Return the options of decoding.

    Raises:
        LoadFailed: one is unknown or out of range.
    """
    decode, most = options.get("decode", "exact"), options.get("max_pixels", str(MOST_PIXELS))
    if decode not in get_args(How):
        raise LoadFailed(
            f"decode is {decode[:40]!r}",
            field="options.decode",
            fix='Write "exact", "near" (resize only what is kept) or "fast" (decode JPEGs smaller, too).',
        )
    if not (most.isascii() and most.isdecimal() and 0 < int(most) <= MOST_ALLOWED):
        raise LoadFailed(
            f"max_pixels is {most[:40]!r}",
            field="options.max_pixels",
            fix=f"Write a number of pixels from 1 to {MOST_ALLOWED}, for example {MOST_PIXELS}.",
        )
    return Decoding(int(most), msgspec.convert(decode, How))


def _taken(directory: ModelDirectory, network: Signature) -> tuple[int, ...]:
    """Return height and width of the images that the network takes; -1 = any."""
    shapes = {spec.name: spec.shape for spec in network.inputs}
    pixels, mask = shapes.pop(PIXELS, ()), shapes.pop(MASK, (-1, -1, -1))
    are_floats = all(spec.datatype.is_float for spec in network.inputs if spec.name == PIXELS)
    if len(pixels) == 4 and pixels[1] in (-1, 3) and are_floats and len(mask) == 3 and not shapes:
        return pixels[2:]
    raise LoadFailed(
        f"the network of {directory.path} takes {described(network.inputs)}; an image gives {PIXELS} "
        "[-1,3,height,width]",
        fix=_EXPORT.format(task=directory.task, path=directory.path),
    )
