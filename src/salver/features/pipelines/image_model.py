"""Model of a Hugging Face directory for images: files in, the answers of its task out.

The images of all requests in a batch are decoded beside one another, and the network runs on those of equal
size together. A request with an error fails alone.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from salver.backends.protocol import Answer, RunnableModel, run_alone
from salver.features.pipelines.images import DecodedImage, How, fitted, load, plain_bytes
from salver.features.pipelines.parameters import from_request
from salver.features.pipelines.ports import ImageOutputs, ImageTask
from salver.features.pipelines.processor import ImageProcessor
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.messages import InferRequest, Signature, TensorSpec
from salver.words.tensor import Array, DataType

IMAGE: Final = TensorSpec("image", DataType.BYTES, (-1,))
PIXELS: Final = "pixel_values"
MASK: Final = "pixel_mask"
_MOST_NUMBERS: Final = 16 << 20  # of the pixels of a run


class Decoding(msgspec.Struct, frozen=True):
    """Options of decoding.

    Attributes:
        most_pixels: Images with more are refused.
        how: ``exact`` = Pillow's pixels; ``near`` = resize only what is kept, which rounds one value in
            10,000 differently; ``fast`` = the same, with large JPEGs decoded at a fraction of their size.
    """

    most_pixels: int
    how: How = "exact"


class _Ready(NamedTuple):
    """An image as the network takes it, FP32 [3, height, width], and its own size."""

    pixels: Array
    height: int
    width: int


class _Job:
    """A request of a run; ``seen`` is None for images that the network has not seen yet."""

    __slots__ = ("error", "images", "parameters", "seen")

    def __init__(self, images: Sequence[bytes | str], parameters: Any) -> None:
        self.images = images
        self.parameters = parameters
        self.seen: list[ImageOutputs | None] = [None] * len(images)
        self.error: SalverError | None = None


class ImageModel:
    """Network, image processor and task of a directory.

    Args:
        network: Takes ``pixel_values`` and perhaps ``pixel_mask``.
        threads: Images that are decoded at the same time.
    """

    def __init__(
        self,
        network: RunnableModel,
        processor: ImageProcessor,
        task: ImageTask,
        signature: Signature,
        decoding: Decoding,
        threads: int = 1,
    ) -> None:
        self.signature = signature
        self._network = network
        self._processor = processor
        self._task = task
        self._decoding = decoding
        self._specs = {spec.name: spec for spec in network.signature.inputs}
        self._most_rows = max(0, self._specs[PIXELS].shape[0])
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        return run_alone(self, inputs)

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        jobs = [self._job(request) for request in requests]
        valid = [job for job in jobs if isinstance(job, _Job)]
        self._see([(job, row) for job in valid for row in range(len(job.images))])
        return [job if isinstance(job, SalverError) else self._answer(job) for job in jobs]

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        if self._pool is not None:
            self._pool.shutdown()
        self._network.close()

    def _job(self, request: InferRequest) -> _Job | SalverError:
        try:
            parameters = from_request(request.parameters, self._task.parameters)
        except SalverError as error:
            return error
        return _Job(request.inputs[0].array.tolist(), parameters)

    def _answer(self, job: _Job) -> Answer | SalverError:
        if job.error is not None:
            return job.error
        return Answer(self._task.answer(job.parameters, [seen for seen in job.seen if seen is not None]))

    def _see(self, places: Sequence[tuple[_Job, int]]) -> None:
        """Run the network on some images, each given by its request and row."""
        files = [job.images[row] for job, row in places]
        decoded = map(self._ready, files) if self._pool is None else self._pool.map(self._ready, files)
        groups: dict[tuple[int, ...], list[tuple[_Job, int, _Ready]]] = {}
        for (job, row), ready in zip(places, decoded, strict=True):
            if isinstance(ready, SalverError):
                job.error = job.error or ready
            else:
                groups.setdefault(ready.pixels.shape, []).append((job, row, ready))
        for shape, group in groups.items():
            most = self._most_rows or max(1, _MOST_NUMBERS // (shape[1] * shape[2] * shape[0]))
            for start in range(0, len(group), most):
                self._run(group[start : start + most])

    def _ready(self, file: bytes | str) -> _Ready | SalverError:
        try:
            data = plain_bytes(file)
            loaded = self._loaded(data)
            plan = self._processor.sizes.plan(loaded.image.height, loaded.image.width)
            pixels = fitted(
                loaded.image, plan, self._processor.resample, is_near=self._decoding.how != "exact"
            )
            self._check(pixels.shape[:2])
        except SalverError as error:
            return error
        return _Ready(self._processor.scale(pixels), loaded.height, loaded.width)

    def _loaded(self, data: bytes) -> DecodedImage:
        decoding = self._decoding
        plan = self._processor.sizes.plan
        return load(data, decoding.most_pixels, plan, is_fast=decoding.how == "fast")

    def _check(self, size: tuple[int, ...]) -> None:
        wanted = self._specs[PIXELS].shape[2:]
        if any(most >= 0 and most != own for most, own in zip(wanted, size, strict=True)):
            raise InvalidInput(
                f"inputs has an image that becomes {size[1]} x {size[0]} pixels; the network takes "
                f"{wanted[1]} x {wanted[0]}",
                field="inputs",
                fix="Send images of another shape, or export the network with free heights and widths.",
            )

    def _run(self, part: Sequence[tuple[_Job, int, _Ready]]) -> None:
        spec = self._specs[PIXELS]
        pixels = np.stack([ready.pixels for _, _, ready in part])
        inputs = {PIXELS: pixels.astype(spec.datatype.dtype, copy=False)}
        if mask := self._specs.get(MASK):
            sizes = zip(mask.shape[1:], pixels.shape[2:], strict=True)
            # Nothing is padded. Some exports have a mask of a fixed size.
            shape = [own if fixed < 0 else fixed for fixed, own in sizes]
            inputs[MASK] = np.ones((len(part), *shape), mask.datatype.dtype)
        given = self._network.run(inputs)
        if any(output.shape[:1] != (len(part),) for output in given.values()):
            raise ModelFailed(
                "the network's outputs do not have a row for each image", fix="Export it again."
            )
        for index, (job, row, ready) in enumerate(part):
            outputs = {name: output[index].astype(np.float32, copy=False) for name, output in given.items()}
            job.seen[row] = ImageOutputs(outputs, ready.height, ready.width)
