"""The CUDA path. Only this package imports CuPy, and only once a GPU is asked for."""

from gpuq.cuda.device import GpuInfo, probe, unavailable

__all__ = ["GpuInfo", "probe", "unavailable"]
