"""PyTorch programs on one of NVIDIA's GPUs."""

from typing import Any

from salver.backends.loading import gpu_limit, no_gpu
from salver.backends.protocol import LoadOptions
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed


def device_of(torch: Any, manifest: Manifest, options: LoadOptions, sharing: str) -> str:
    """Return the device of a program, once it can be used and its memory is limited.

    Raises:
        LoadFailed: there is no such GPU for PyTorch, or the program cannot run on it.
    """
    gpu = options.gpu
    if gpu is None:
        return "cpu"
    if manifest.format == "torch-aoti":
        raise no_gpu(
            "PyTorch",
            gpu,
            f"{manifest.path} was compiled for one device",
            "Save the program with torch.export.save",
        )
    if sharing:
        raise LoadFailed(
            "weights on a GPU cannot be shared", field="options.share_weights", fix="Remove the option."
        )
    try:
        total = torch.cuda.get_device_properties(gpu).total_memory
        if limit := gpu_limit(manifest):
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), gpu)
    except (AssertionError, RuntimeError) as error:
        fix = "Install PyTorch with CUDA (https://pytorch.org/get-started/locally) for the machine's driver"
        raise no_gpu("PyTorch", gpu, str(error).strip().rstrip("."), fix) from error
    return f"cuda:{gpu}"


class OnDevice:
    """A program on a device, called with tensors in the host's memory and returning such."""

    def __init__(self, torch: Any, program: Any, device: str) -> None:
        self._torch, self._program, self._device = torch, program, device

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the program."""
        arguments, named = self._moved((arguments, named), self._device)
        return self._moved(self._program(*arguments, **named), "cpu")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def _moved(self, values: Any, device: str) -> Any:
        def move(value: Any) -> Any:
            if isinstance(value, self._torch.Tensor):
                return value.to(device)
            return value

        return self._torch.utils._pytree.tree_map(move, values)
