"""Memory of NVIDIA's GPUs, as their management library (NVML) tells it. Blocking."""

import os
from collections.abc import Mapping
from typing import Any

from salver.features.memory.ports import DeviceUse
from salver.machine import VISIBLE_GPUS
from salver.words.errors import Unsupported


class NvidiaDevices:
    """GPUs that CUDA shows to this process.

    Raises:
        Unsupported: nvidia-ml-py is not installed, or there is no driver.
    """

    def __init__(self) -> None:
        try:
            import pynvml
        except ModuleNotFoundError as error:
            raise Unsupported(
                "a pool of device memory needs the package nvidia-ml-py",
                field="--memory",
                fix="Install it with: pip install 'salver[gpu]'",
            ) from error
        self._nvml: Any = pynvml
        try:
            self._nvml.nvmlInit()
            self._handles = {gpu: self._handle(name) for gpu, name in enumerate(self._shown())}
        except self._nvml.NVMLError as error:
            raise Unsupported(
                f"NVIDIA's driver tells nothing of GPUs: {error}",
                field="--memory",
                fix="Check it with nvidia-smi, or name no gpu.",
            ) from error

    def _shown(self) -> list[str]:
        """Return the GPUs that CUDA shows, by number or UUID."""
        names = os.environ.get(VISIBLE_GPUS)
        if names is None:
            return list(map(str, range(self._nvml.nvmlDeviceGetCount())))
        return [name.strip() for name in names.split(",") if name.strip()]

    def _handle(self, name: str) -> Any:
        if name.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def read(self) -> Mapping[int, DeviceUse]:
        """Return what is used of each, by number as CUDA counts them."""
        return {gpu: self._use(handle) for gpu, handle in self._handles.items()}

    def _use(self, handle: Any) -> DeviceUse:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        sizes = {each.pid: int(each.usedGpuMemory or 0) for each in running}  # None where it is not told
        return DeviceUse(int(memory.total), int(memory.free), int(memory.free), sizes)
