"""gpuq.devices and the probe behind it, on machines of every kind: none of them needs a GPU here."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from gpuq import DeviceNotAvailable, InputValueError, cuda
from gpuq.cuda import device as cuda_device
from gpuq.devices import Device, resolve_device


def fake_cupy(monkeypatch: pytest.MonkeyPatch, cupy: Any) -> None:
    """Makes `import cupy` give this, or raise it."""
    real = importlib.import_module

    def import_module(name: str) -> Any:
        if name != "cupy":
            return real(name)
        if isinstance(cupy, BaseException):
            raise cupy
        return cupy

    monkeypatch.setattr(cuda_device.importlib, "import_module", import_module)


def cupy_with(*capabilities: tuple[int, int], available: bool = True) -> Any:
    """A CuPy that sees GPUs of these compute capabilities."""
    runtime = SimpleNamespace(
        getDeviceCount=lambda: len(capabilities),
        getDeviceProperties=lambda index: {
            "name": f"GPU {index}".encode(),
            "major": capabilities[index][0],
            "minor": capabilities[index][1],
            "totalGlobalMem": 1 << 34,
        },
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 12080,
    )
    nvrtc = SimpleNamespace(getVersion=lambda: (12, 8))
    return SimpleNamespace(
        __version__="14.0.0", cuda=SimpleNamespace(is_available=lambda: available, runtime=runtime, nvrtc=nvrtc)
    )


@pytest.mark.parametrize(
    ("cupy", "reason"),
    [
        (ImportError("No module named 'cupy'"), "CuPy is not installed; pip install"),
        (RuntimeError("libcudart.so.13 is broken"), "CuPy does not import: libcudart.so.13 is broken"),
        (cupy_with(available=False), "no CUDA driver or no GPU"),
        (cupy_with(), "there is no GPU"),
        (cupy_with((6, 1)), "GPU 0 is sm_61; gpuq needs sm_75 or newer"),
        (cupy_with((7, 0)), "sm_70"),
    ],
)
def test_cuda_without_a_usable_gpu(monkeypatch: pytest.MonkeyPatch, cupy: Any, reason: str) -> None:
    fake_cupy(monkeypatch, cupy)
    with pytest.raises(DeviceNotAvailable, match=f"device 'cuda': .*{reason}"):
        resolve_device("cuda")
    assert resolve_device("auto") == Device("cpu")
    assert resolve_device("cpu") == Device("cpu")


def test_index_beyond_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, cupy_with((8, 0), (9, 0)))
    with pytest.raises(DeviceNotAvailable, match="device 'cuda:2': there is no GPU 2; this machine has 2"):
        resolve_device("cuda:2")


def test_probe_describes_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy(monkeypatch, cupy_with((8, 6), (9, 0)))
    found = cuda.probe()
    assert (found.cupy, found.driver, found.runtime, found.nvrtc) == ("14.0.0", 13000, 12080, (12, 8))
    assert [(gpu.index, gpu.name, gpu.compute_capability) for gpu in found.gpus] == [
        (0, "GPU 0", (8, 6)),
        (1, "GPU 1", (9, 0)),
    ]
    assert found.problem is None


def test_probe_survives_missing_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise RuntimeError("libnvrtc.so.12: cannot open shared object file")

    cupy = cupy_with((8, 6))
    cupy.cuda.nvrtc.getVersion = cupy.cuda.runtime.driverGetVersion = missing
    fake_cupy(monkeypatch, cupy)
    found = cuda.probe()
    assert (found.nvrtc, found.driver, found.runtime) == (None, None, 12080)
    assert found.problem is None
    # Without a compiler there is a GPU, and nothing to run on it.
    assert resolve_device("auto") == Device("cpu")
    with pytest.raises(DeviceNotAvailable, match="CuPy finds no NVRTC"):
        resolve_device("cuda")


def test_usable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "unavailable", lambda index: None if index < 2 else "no such GPU")
    assert resolve_device("auto") == resolve_device("cuda") == resolve_device("cuda:0") == Device("cuda", 0)
    assert resolve_device("cuda:1") == Device("cuda", 1)
    with pytest.raises(DeviceNotAvailable, match="no such GPU"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ", "cuda0", "cpu:0", "cuda:1.0"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InputValueError, match=r"must be 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        resolve_device(name)


def test_names() -> None:
    assert str(Device("cpu")) == "cpu"
    assert str(Device("cuda", 3)) == "cuda:3"
