"""gpuq.cuda.copy: PAD and CONCATENATION of every rank, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuq.cuda.copy import Span, folded_spans, pack_concatenation, pack_pad
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.plans import layer_of
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops import concatenation, pad
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.float32.movement import PlainConcatenationSpec, PlainPadSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.spec import INT32
from gpuq.quant import Quant

from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import random_quant, run_layer
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

EXACT = Rule(Rounding.EXACT)
AFFINE = Rule(Rounding.AFFINE_F32)


def random_shape(rng: np.random.Generator, align: int) -> tuple[int, ...]:
    """Of rank 1 to 6, the last dimension a multiple of `align`."""
    rank = int(rng.integers(1, 7))
    largest = (0, 9, 9, 7, 4, 3, 3)[rank]
    last = align * int(rng.integers(1, 64 // align + 1)) if align > 1 else int(rng.integers(1, 68))
    return (*(int(n) for n in rng.integers(1, largest + 1, rank - 1)), last)


@pytest.mark.slow
@pytest.mark.parametrize("align", [16, 4, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pads_equal_reference(launcher: HostLauncher, dtype: str, align: int, seed: int) -> None:
    rng = np.random.default_rng([seed, align, dtype == "int8"])
    names = set()
    for case in range(scaled(120)):
        shape = random_shape(rng, align)
        pads = [tuple(int(n) for n in rng.choice([0, 0, 1, 2, 3], 2)) for _ in shape]
        kind = rng.integers(3)
        if kind == 0:  # of an image: its channels are not padded
            pads[-1] = (0, 0)
        elif kind == 1:
            pads[-1] = (align * int(rng.integers(3)), align * int(rng.integers(3)))
        spec = PadSpec(x_shape=shape, pads=tuple(pads), out_quant=random_quant(rng, dtype))
        x = random_codes(rng, (int(rng.integers(1, 4)), *shape), dtype)
        want = pad.reference(spec, EXACT, x)
        context = f"seed {seed}, case {case}: {spec}"
        # The channels of the output must allow the pitches, too.
        held = align if pads[-1][0] % align == pads[-1][1] % align == 0 else 1
        gaps = bool(case % 2)
        names |= set(run_layer(launcher, pack_pad(spec, EXACT), [x], want, rng, context, align=held, gaps=gaps))
    assert f"pad_rows_u{8 * align}" in names


@pytest.mark.slow
@pytest.mark.parametrize("align", [16, 4, 1])
def test_frames_leave_what_they_frame(launcher: HostLauncher, align: int, seed: int) -> None:
    rng = np.random.default_rng([seed, 9, align])
    for case in range(scaled(40)):
        shape = random_shape(rng, align)
        pads = [tuple(int(n) for n in rng.choice([0, 0, 1, 2, 3], 2)) for _ in shape]
        if rng.random() < 0.7:
            pads[-1] = (0, 0)
        spec = PadSpec(x_shape=shape, pads=tuple(pads), out_quant=random_quant(rng, "int8"))
        x = random_codes(rng, (int(rng.integers(1, 4)), *shape), "int8")
        want = pad.reference(spec, EXACT, x)
        before = random_codes(rng, want.shape, "int8")
        inside = tuple(slice(first, first + size) for (first, _), size in zip(pads, shape, strict=True))
        before[(slice(None), *inside)] = x
        held = align if pads[-1] == (0, 0) else 1
        layer = replace(pack_pad(spec, EXACT), in_place=True)
        context = f"seed {seed}, case {case}: {spec}"
        names = run_layer(launcher, layer, [], want, rng, context, align=held, gaps=bool(case % 2), before=before)
        assert all(name.startswith("frame_rows") for name in names)


def test_inputs_in_place_are_not_copied(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    quant = Quant(0.5, 7)
    spec = ConcatenationSpec(x_shapes=((4, 8), (4, 4), (4, 12)), axis=1, x_quants=(quant,) * 3, out_quant=quant)
    codes = [random_codes(rng, (2, *shape), "int8") for shape in spec.x_shapes]
    want = concatenation.reference(spec, EXACT, *codes)
    before = random_codes(rng, want.shape, "int8")
    before[..., 8:12] = codes[1]
    layer = replace(pack_concatenation(spec, EXACT), in_place=frozenset({1}))
    assert len(layer.x_shapes) == 2
    run_layer(launcher, layer, [codes[0], codes[2]], want, rng, f"seed {seed}", align=4, before=before)


def test_images_of_few_channels_are_written_in_words(launcher: HostLauncher, seed: int) -> None:
    # 16 x 30 x 3, a frame of one pixel: rows of 96 codes, whose inner part begins at code 3.
    rng = np.random.default_rng(seed)
    for before in (1, 0, 2):
        spec = PadSpec(x_shape=(5, 30, 3), pads=((1, 1), (before, 2 - before), (0, 0)), out_quant=Quant(0.5, 7))
        x = random_codes(rng, (2, 5, 30, 3), "int8")
        want = pad.reference(spec, EXACT, x)
        names = run_layer(launcher, pack_pad(spec, EXACT), [x], want, rng, f"{seed}", align=16, gaps=False)
        assert names == ["pad_rows_u128_u8"]


@pytest.mark.slow
@pytest.mark.parametrize("align", [16, 4, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_concatenations_equal_reference(launcher: HostLauncher, dtype: str, align: int, seed: int) -> None:
    rng = np.random.default_rng([seed, 3, align, dtype == "int8"])
    names = set()
    for case in range(scaled(70)):
        shape = random_shape(rng, align)
        axis = len(shape) - 1 if rng.random() < 0.5 else int(rng.integers(len(shape)))
        step = align if axis == len(shape) - 1 and rng.random() < 0.7 else 1
        count = int(rng.integers(1, 5))
        shapes = tuple(
            (
                *shape[:axis],
                step * int(rng.integers(1, 40 // step + 1 if axis == len(shape) - 1 else 4)),
                *shape[axis + 1 :],
            )
            for _ in range(count)
        )
        held = align if all(each[-1] % align == 0 for each in shapes) else 1
        out_quant = random_quant(rng, dtype, -3, 1)
        quants = [
            random_quant(rng, dtype, -4, 2) if dtype == "uint8" and rng.random() < 0.5 else out_quant for _ in shapes
        ]
        spec = ConcatenationSpec(x_shapes=shapes, axis=axis, x_quants=tuple(quants), out_quant=out_quant)
        runs = int(rng.integers(1, 4))
        constant = [rng.random() < 0.2 for _ in shapes]
        codes = [
            random_codes(rng, (1 if fixed else runs, *each), dtype)
            for each, fixed in zip(shapes, constant, strict=True)
        ]
        if all(constant):
            runs = 1
        want = concatenation.reference(spec, AFFINE, *codes)
        given = [part[0] if fixed else None for part, fixed in zip(codes, constant, strict=True)]
        layer = pack_concatenation(spec, AFFINE, given)
        inputs = [part for part, fixed in zip(codes, constant, strict=True) if not fixed]
        context = f"seed {seed}, case {case}: {spec}"
        names |= set(run_layer(launcher, layer, inputs, want, rng, context, align=held, gaps=bool(case % 2)))
    assert f"copy_rows_u{8 * align}" in names
    assert dtype == "int8" or f"copy_table_rows_u{8 * align}" in names


def test_every_code_through_a_table(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        quants = tuple(random_quant(rng, "uint8", -4, 2) for _ in range(2))
        spec = ConcatenationSpec(
            x_shapes=((256,), (256,)), axis=0, x_quants=quants, out_quant=random_quant(rng, "uint8")
        )
        x = [np.arange(256, dtype=np.uint8)[None], np.arange(255, -1, -1, dtype=np.uint8)[None]]
        want = concatenation.reference(spec, AFFINE, *x)
        run_layer(launcher, pack_concatenation(spec, AFFINE), x, want, rng, f"seed {seed}: {spec}")


def test_an_inner_span_without_a_frame_joins() -> None:
    channels, columns = Span(8, 0, 8, 1, 1), Span(10, 1, 8, 8, 8)
    rows = Span(12, 1, 10, 64, 80)
    assert folded_spans([Span(1, 0, 1, 640, 960), rows, columns, channels]) == [rows, Span(80, 8, 64, 1, 1)]
    # With a frame around the channels, or gaps between pixels, they stay apart.
    assert len(folded_spans([columns, Span(8, 1, 7, 1, 1)])) == 2
    assert len(folded_spans([Span(10, 1, 8, 16, 8), channels])) == 2


def test_nothing_to_do_and_too_much() -> None:
    traits = Traits(80, 4)
    spec = PadSpec(x_shape=(3, 5), pads=((0, 0), (1, 2)), out_quant=Quant(0.5))
    layer = pack_pad(spec, EXACT)
    choice = layer.choices(1, traits)[0]
    assert layer.workspace_bytes(1, choice) == 0
    many = ImageLayout.contiguous(1 << 31, 1, 3, 5)
    with pytest.raises(InputValueError, match="PAD: .* words in one launch"):
        layer.launches(choice, [many], ImageLayout.contiguous(1 << 31, 1, 3, 8))
    none = pack_pad(replace(spec, x_shape=(0, 5)), EXACT)
    assert not none.launches(choice, [ImageLayout.contiguous(1, 1, 0, 5)], ImageLayout.contiguous(1, 1, 0, 8))
    deep = pack_pad(PadSpec(x_shape=(1,) * 8, pads=((1, 1),) * 8, out_quant=Quant(0.5)), EXACT)
    one = ImageLayout.contiguous(1, 1, 1, 1)
    with pytest.raises(InputValueError, match="PAD: 8 dimensions; the CUDA kernel has up to 7"):
        deep.launches(choice, [one], one)
    quants = (Quant(0.5),) * 2
    joined = ConcatenationSpec(x_shapes=((0, 5), (2, 5)), axis=0, x_quants=quants, out_quant=quants[0])
    both = pack_concatenation(joined, EXACT)
    assert both.workspace_bytes(1, both.choices(1, traits)[0]) == 0
    layouts = [ImageLayout.contiguous(1, 1, rows, 5) for rows in (0, 2)]
    assert len(both.launches(choice, layouts, layouts[1])) == 1


def test_frames_and_joints_of_plain_numbers(launcher: HostLauncher) -> None:
    # Movements, too, but boxes are copied, and the frame is 0, whatever the first element is.
    x = np.arange(5, 11, dtype=np.int32).reshape(1, 2, 3)
    framed = PlainPadSpec(x_shape=(2, 3), dtype=INT32, pads=((1, 0), (0, 1)))
    layer = layer_of(framed, EXACT, [None])
    want = np.array([[[0, 0, 0, 0], [5, 6, 7, 0], [8, 9, 10, 0]]], np.int32)
    run_layer(launcher, layer, [x], want, np.random.default_rng(1), "frame", align=4, gaps=False)
    joined = PlainConcatenationSpec(x_shape=(2, 3), dtype=INT32, x_shapes=((2, 3), (2, 3)), axis=1)
    layer = layer_of(joined, EXACT, [None, None])
    want = np.concatenate([x, x + 10], axis=2)
    run_layer(launcher, layer, [x, x + 10], want, np.random.default_rng(1), "joint", align=4, gaps=False)
