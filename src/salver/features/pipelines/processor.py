"""``preprocessor_config.json`` of image models: which size, part and scale their networks take.

Pure, apart from reading the file. No class that a file names is imported: those that are known are a table.
"""

from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from salver.features.pipelines.directory import Reader
from salver.features.pipelines.images import BILINEAR, Plan, Scale, scale_of
from salver.words.errors import LoadFailed

_BICUBIC: Final = 3
_HALF: Final = (0.5, 0.5, 0.5)
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP: Final = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_FULL: Final = 384  # edge from which ConvNeXt takes the whole image
_ENDS: Final = ("Pil", "Fast", "ImageProcessor", "FeatureExtractor")

_Size = int | list[int] | dict[str, int | None] | None


class ImageConfig(msgspec.Struct, frozen=True):
    """The part of the file that Salver reads; None = the default of its class."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = None
    size: _Size = None
    max_size: int | None = None
    resample: int | None = None
    do_center_crop: bool | None = None
    crop_size: _Size = None
    crop_pct: float | None = None
    do_rescale: bool | None = None
    rescale_factor: float | None = None
    rescale_offset: bool | None = None
    do_normalize: bool | None = None
    image_mean: list[float] | float | None = None
    image_std: list[float] | float | None = None
    do_flip_channel_order: bool | None = None
    include_top: bool | None = None
    pad_size: dict[str, int] | None = None


class BothConfigs(msgspec.Struct, frozen=True):
    """``processor_config.json`` of newer directories."""

    image_processor: ImageConfig | None = None


class Kind(msgspec.Struct, frozen=True):
    """Defaults of a class of transformers, and its rule for sizes."""

    size: _Size
    resample: int = _BICUBIC
    mean: tuple[float, ...] = _HALF
    std: tuple[float, ...] = _HALF
    crop: int | None = None
    crops: bool = False
    normalizes: bool = True
    is_square: bool = False
    rule: Literal["plain", "convnext", "levit", "yolos"] = "plain"


_SQUARE_224: Final = Kind([224, 224], is_square=True)
_MOBILE: Final = Kind({"shortest_edge": 256}, BILINEAR, crop=224, crops=True)
_OPENAI: Final = Kind({"shortest_edge": 224}, _BICUBIC, *_CLIP, crop=224, crops=True)
_DETR: Final = Kind({"shortest_edge": 800, "longest_edge": 1333}, BILINEAR, *_IMAGENET)
#: By the names of classes without their ends.
KINDS: Final = {
    "ViT": msgspec.structs.replace(_SQUARE_224, resample=BILINEAR),
    "Siglip": _SQUARE_224,
    "Pvt": Kind([224, 224], _BICUBIC, *_IMAGENET, is_square=True),
    "Beit": msgspec.structs.replace(_SQUARE_224, crop=224),
    "DeiT": Kind([256, 256], crop=224, crops=True, is_square=True),
    "ConvNext": Kind({"shortest_edge": 384}, rule="convnext"),
    "Levit": Kind({"shortest_edge": 224}, _BICUBIC, *_IMAGENET, crop=224, crops=True, rule="levit"),
    "MobileNetV1": _MOBILE,
    "MobileNetV2": _MOBILE,
    "MobileViT": Kind({"shortest_edge": 224}, crop=256, crops=True, normalizes=False),
    "EfficientNet": Kind([346, 346], crop=289, is_square=True),
    "Bit": _OPENAI,
    "CLIP": _OPENAI,
    "Segformer": Kind([512, 512], BILINEAR, *_IMAGENET, is_square=True),
    "Detr": _DETR,
    "ConditionalDetr": _DETR,
    "DeformableDetr": _DETR,
    "Yolos": msgspec.structs.replace(_DETR, rule="yolos"),
    "RTDetr": Kind([640, 640], BILINEAR, *_IMAGENET, normalizes=False),
}
_CONFIG: Final = Reader(ImageConfig)
_BOTH: Final = Reader(BothConfigs)


class Sizes(msgspec.Struct, frozen=True):
    """Sizes of images for a network: a fixed one, or a rule by edges.

    Attributes:
        height, width: 0 = by the edges.
        most_height, most_width: The image is made to fit into them.
        crop_pct: Part of the resized edge that ConvNeXt keeps.
    """

    rule: str = "plain"
    height: int = 0
    width: int = 0
    shortest: int = 0
    longest: int = 0
    most_height: int = 0
    most_width: int = 0
    crop: tuple[int, int] | None = None
    crop_pct: float = 224 / 256

    def plan(self, height: int, width: int) -> Plan:
        """Return the sizes for an image.

        >>> Sizes(shortest=256, crop=(224, 224)).plan(427, 640)
        Plan(height=256, width=383, crop=(224, 224))
        """
        if self.rule == "convnext":
            edge = self.shortest
            if edge >= _FULL:
                return Plan(edge, edge, self.crop)
            return Plan(*_by_shortest(height, width, int(edge / self.crop_pct)), (edge, edge))
        if self.rule == "levit" and self.shortest:
            return Plan(*_by_shortest(height, width, int(256 / 224 * self.shortest)), self.crop)
        if self.shortest and self.longest:
            found = _by_both(height, width, self.shortest, self.longest)
            if self.rule == "yolos":
                found = max(16, found[0] // 16 * 16), max(16, found[1] // 16 * 16)
            return Plan(*found, self.crop)
        if self.shortest:
            return Plan(*_by_shortest(height, width, self.shortest), self.crop)
        if self.most_height:
            part = min(self.most_height / height, self.most_width / width)
            return Plan(max(1, int(height * part)), max(1, int(width * part)), self.crop)
        return Plan(self.height or height, self.width or width, self.crop)

    @property
    def fixed(self) -> tuple[int, int] | None:
        """Height and width of every image, if they are always the same."""
        if self.rule == "convnext":
            return self.crop or (self.shortest, self.shortest)
        return self.crop or ((self.height, self.width) if self.height else None)


def _by_shortest(height: int, width: int, edge: int) -> tuple[int, int]:
    """Return height and width with the shorter one as given."""
    if height <= width:
        return edge, int(edge * width / height)
    return int(edge * height / width), edge


def _by_both(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Return the same, with the longer one at most as given: DETR's rule, rounded as there."""
    edge: float = shortest
    if max(height, width) / min(height, width) * shortest > longest:
        edge = longest * min(height, width) / max(height, width)
        shortest = round(edge)
    if min(height, width) == shortest:
        return height, width
    shortest = max(1, shortest)
    if width < height:
        return int(edge * height / width), shortest
    return shortest, int(edge * width / height)


class ImageProcessor(msgspec.Struct, frozen=True):
    """Sizes, filter and scale of the images that a network takes."""

    sizes: Sizes
    resample: int
    scale: Scale


def read_processor(root: Path, model_type: str = "") -> ImageProcessor:
    """Read the file of a directory.

    Args:
        root: Folder of the file.
        model_type: What ``config.json`` says, for old files that name no class.

    Raises:
        LoadFailed: it is missing or broken, or names what is unknown.
    """
    path, newer = root / "preprocessor_config.json", root / "processor_config.json"
    config = _BOTH.read(newer).image_processor if newer.is_file() and not path.is_file() else None
    config = config or _CONFIG.read(path)
    named = config.image_processor_type or config.feature_extractor_type or model_type
    kind = _kind(named)
    if kind is None or config.pad_size:
        what = f"the image processor {named[:200]!r}" if kind is None else "a pad_size"
        raise LoadFailed(
            f"{path} names {what}, which is unknown",
            fix=f'It knows those of: {", ".join(KINDS)}. Or serve the network alone: backend = "onnx".',
        )
    try:
        return _processor(config, kind)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LoadFailed(
            f"{path} has sizes, means or a filter that do not fit together ({error})",
            fix="Download the directory again.",
        ) from error


def _kind(name: str) -> Kind | None:
    for end in _ENDS:
        name = name.removesuffix(end)
    wanted = name.lower().replace("_", "").replace("-", "")
    return next((kind for known, kind in KINDS.items() if known.lower() == wanted), None)


def _processor(config: ImageConfig, kind: Kind) -> ImageProcessor:
    crop = None
    if _said(config.do_center_crop, kind.crops):
        crop = _pair(config.crop_size or kind.crop)
    sizes = Sizes(crop=crop)
    if _said(config.do_resize, True):
        sizes = _sizes(config, kind, crop)
    resample = kind.resample if config.resample is None else config.resample
    if not 0 <= resample <= 5:
        raise ValueError(f"resample is {resample}")
    factor = None
    if _said(config.do_rescale, True):
        factor = 1 / 255 if config.rescale_factor is None else config.rescale_factor
    mean = std = None
    if _said(config.do_normalize, kind.normalizes):
        mean, std = _three(config.image_mean, kind.mean), _three(config.image_std, kind.std)
    scale = scale_of(
        factor,
        mean,
        std,
        has_offset=bool(config.rescale_offset) and factor is not None,
        is_bgr=_said(config.do_flip_channel_order, kind is KINDS["MobileViT"]),
    )
    if kind is KINDS["EfficientNet"] and _said(config.include_top, True):
        divisor = np.array(_three(config.image_std, kind.std), np.float32)[:, None]
        scale = Scale(scale.values / divisor, scale.channels)
    return ImageProcessor(sizes, resample, scale)


def _said(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def _sizes(config: ImageConfig, kind: Kind, crop: tuple[int, int] | None) -> Sizes:
    size = kind.size if config.size is None else config.size
    if isinstance(size, int):
        size = [size, size] if kind.is_square else {"shortest_edge": size, "longest_edge": config.max_size}
    if isinstance(size, list):
        size = {"height": size[0], "width": size[1]}
    said: dict[str, int] = {name: value for name, value in (size or {}).items() if value}
    sizes = Sizes(
        kind.rule,
        said.get("height", 0),
        said.get("width", 0),
        said.get("shortest_edge", 0),
        said.get("longest_edge", 0),
        said.get("max_height", 0),
        said.get("max_width", 0),
        crop,
        224 / 256 if config.crop_pct is None else config.crop_pct,
    )
    forms = [sizes.height and sizes.width, sizes.shortest, sizes.most_height and sizes.most_width]
    if not any(forms) or min(said.values()) < 1 or (kind.rule == "convnext" and not sizes.shortest):
        raise ValueError(f"size is {size}")
    return sizes


def _pair(size: _Size) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, list):
        return size[0], size[1]
    found: Any = size or {}
    return found["height"], found["width"]


def _three(value: list[float] | float | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    if isinstance(value, float | int):
        return (float(value),) * 3
    if len(value) != 3:
        raise ValueError(f"{len(value)} channels instead of 3")
    return tuple(value)
