"""Runs CUDA layers of several inputs on the CPU: operands anywhere in memory, with gaps that must stay as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpuq.cuda.kernel import Pointer
from gpuq.cuda.layer import slot_name, y_shapes
from gpuq.cuda.layout import ImageLayout
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import random_codes
from .host_cuda.runner import HostLauncher


def placed(
    rng: np.random.Generator, images: np.ndarray, align: int, gaps: bool
) -> tuple[np.ndarray, np.ndarray, ImageLayout]:
    """(memory, view, layout): images (N, H, W, C) amid noise, every pixel's address a multiple of `align` elements.

    The memory begins somewhere in its allocation and the images somewhere in the memory; gaps only where asked for.
    """
    count, height, width, channels = images.shape
    widths = align * rng.choice([0, 0, 1, 3], 3) if gaps else np.zeros(3, np.int64)
    pixel = channels + int(widths[0])
    row = width * pixel + int(widths[1])
    image = height * row + int(widths[2])
    start, offset = (align * int(steps) for steps in rng.choice([0, 0, 1, 2], 2))
    room = random_codes(rng, (start + offset + count * image,), images.dtype)
    memory = room[start:]
    size = images.itemsize
    view = np.lib.stride_tricks.as_strided(
        memory[offset:], images.shape, (image * size, row * size, pixel * size, size)
    )
    view[...] = images
    layout = ImageLayout(count, image * size, row * size, pixel * size, offset * size, itemsize=size)
    return memory, view, layout


def run_layer(
    launcher: HostLauncher,
    layer: Any,
    inputs: list[np.ndarray],
    want: np.ndarray,
    rng: np.random.Generator,
    context: object,
    *,
    align: int = 1,
    gaps: bool = True,
    before: np.ndarray | None = None,
    further: Sequence[np.ndarray] = (),
    updates: Mapping[int, int] | None = None,
    choice: Any = None,
    status: np.ndarray | None = None,
) -> list[str]:
    """Compares a layer's output with `want`, (N, *output_shape), and the bytes between its elements with what they were.

    Args:
        inputs: (N, ...) codes of each activation input.
        align: of all operands' pixels, in bytes.
        gaps: between pixels, rows and images.
        before: the output's memory before the call, in the shape of `want`; noise by default.
        further: what the outputs behind the first must be, likewise.
        updates: of these outputs the input, by its number, whose memory they share: state.
        choice: one of the layer's; default: the first.
        status: the word of a layer that checks its data.

    Returns:
        the names of the kernels that ran.
    """
    memory: dict[str, Pointer] = {"status": Pointer(status)}
    layouts = []
    updates = updates or {}
    made: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for index, (codes, shape) in enumerate(zip(inputs, layer.x_shapes, strict=True)):
        held, view, layout = placed(rng, codes.reshape(-1, *shape), align, gaps)
        layouts.append(replace(layout, misalignment=launcher.misalignment(held)))
        memory[slot_name("x", index)] = Pointer(held)
        held.flags.writeable = index in updates.values()
        for number in (number for number, shared in updates.items() if shared == index):
            memory[slot_name("y", number)] = Pointer(held, layout.offset)
            made.append((held, view, further[number - 1]))
    for number, (result, shape) in enumerate(zip(further, y_shapes(layer)[1:], strict=True), start=1):
        if number not in updates:
            held, view, layout = placed(rng, random_codes(rng, (len(result), *shape), result.dtype), align, gaps=False)
            memory[slot_name("y", number)] = Pointer(held, layout.offset)
            made.append((held, view, result))
    noise = random_codes(rng, (want.shape[0], *layer.y_shape), want.dtype)
    if before is not None:
        noise = before.reshape(noise.shape)
    y_memory, y_view, y_layout = placed(rng, noise, align, gaps)
    y_layout = replace(y_layout, misalignment=launcher.misalignment(y_memory))
    expected = _with(y_memory, y_view, want)
    choice = choice or layer.choices(want.shape[0], launcher.traits)[0]
    memory["workspace"] = Pointer(rng.integers(0, 256, max(4, layer.workspace_bytes(want.shape[0], choice)), np.uint8))
    memory["y"] = Pointer(y_memory)
    memory |= launcher.upload(layer.constants)
    wholes = [_with(held, view, result) for held, view, result in made]
    names = []
    for launch in layer.launches(choice, layouts, y_layout):
        launcher.launch(launch.bound(memory))
        names.append(launch.kernel.name)
    for (held, view, result), whole in zip(made, wholes, strict=True):
        assert_equal_bits(view, result.reshape(view.shape), context)
        assert_equal_bits(held, whole, f"around a further output: {context}")
    assert_equal_bits(y_view, want.reshape(noise.shape), context)
    assert_equal_bits(y_memory, expected, f"between the elements: {context}")
    return names


def _with(memory: np.ndarray, view: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A copy of the memory with other values in a view of it."""
    copied = memory.copy()
    first = (view.ctypes.data - memory.ctypes.data) // memory.itemsize
    np.lib.stride_tricks.as_strided(copied[first:], view.shape, view.strides)[...] = values.reshape(view.shape)
    return copied


def random_quant(rng: np.random.Generator, dtype: str, low: float = -10, high: float = 4) -> Quant:
    """A scale between these powers of two, often one of them (which makes ties), and any zero point, often extreme."""
    scale = 2.0 ** (rng.integers(int(low), int(high) + 1) if rng.random() < 0.5 else rng.uniform(low, high))
    info = np.iinfo(dtype)
    zero_point = rng.choice([rng.integers(info.min, info.max + 1), info.min, info.max])
    return Quant(float(np.float32(scale)), int(zero_point), dtype=dtype)
