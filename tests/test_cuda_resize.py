"""gpuq.cuda.resize: both resizes, run thread by thread on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.resize import pack
from gpuq.errors import InputValueError
from gpuq.numerics import Rounding, Rule
from gpuq.ops import resize_bilinear, resize_nearest_neighbor
from gpuq.ops.resize_bilinear import ResizeBilinearSpec, ResizeSpec
from gpuq.ops.resize_nearest_neighbor import ResizeNearestNeighborSpec

from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]

EXACT = Rule(Rounding.EXACT)
REFERENCES: dict[type[ResizeSpec], Any] = {
    ResizeBilinearSpec: resize_bilinear.reference,
    ResizeNearestNeighborSpec: resize_nearest_neighbor.reference,
}


@pytest.mark.slow
@pytest.mark.parametrize("align", [16, 4, 1])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("spec_type", list(REFERENCES), ids=lambda spec_type: spec_type.op)
def test_resizes_equal_reference(
    launcher: HostLauncher, spec_type: type[ResizeSpec], dtype: str, align: int, seed: int
) -> None:
    rng = np.random.default_rng([seed, align, dtype == "int8", list(REFERENCES).index(spec_type)])
    for case in range(scaled(120)):
        sizes = [int(n) for n in rng.integers(1, 12, 4)]
        if rng.random() < 0.2:
            sizes[2] = int(rng.integers(50, 200))  # so large that rounded scales lead beyond the last row
        channels = align * int(rng.integers(1, 48 // align + 1)) if align > 1 else int(rng.integers(1, 68))
        corners, centers = ((False, False), (True, False), (False, True))[rng.integers(3)]
        spec = spec_type(
            in_h=sizes[0],
            in_w=sizes[1],
            in_c=channels,
            out_h=sizes[2],
            out_w=sizes[3],
            align_corners=corners,
            half_pixel_centers=centers,
            dtype=np.dtype(dtype),
        )
        x = random_codes(rng, (int(rng.integers(1, 3)), sizes[0], sizes[1], channels), dtype)
        in_floats = dtype == "uint8" and spec_type is ResizeBilinearSpec
        rule = Rule(Rounding.AFFINE_F32) if in_floats else EXACT
        want = REFERENCES[spec_type](spec, rule, x)
        context = f"seed {seed}, case {case}: {spec}"
        names = run_layer(launcher, pack(spec, rule), [x], want, rng, context, align=align)
        largest = 4 if spec_type is ResizeBilinearSpec else 16
        assert align == 1 or int(names[0].rsplit("_u", 1)[1]) >= 8 * min(align, largest)


@pytest.mark.slow
def test_strong_enlargements_of_extreme_codes(launcher: HostLauncher, seed: int) -> None:
    # The rounded scale of 3 / 7000 is 0 or 1 in 1/1024: weights far outside of 0 ... 1024, products that wrap.
    rng = np.random.default_rng(seed)
    for corners, centers in ((False, False), (True, False), (False, True)):
        for out_h, out_w in ((1100, 3), (2, 3000), (600, 40)):
            spec = ResizeBilinearSpec(
                in_h=2,
                in_w=3,
                in_c=1,
                out_h=out_h,
                out_w=out_w,
                align_corners=corners,
                half_pixel_centers=centers,
                dtype=np.dtype(np.int8),
            )
            x = rng.choice(np.array([-128, 127], np.int8), (1, 2, 3, 1))
            want = resize_bilinear.reference(spec, EXACT, x)
            run_layer(launcher, pack(spec, EXACT), [x], want, rng, f"seed {seed}, {spec}", gaps=False)


def test_too_much_is_refused() -> None:
    spec = ResizeNearestNeighborSpec(in_h=2, in_w=2, in_c=4, out_h=4, out_w=4, dtype=np.dtype(np.int8))
    layer = pack(spec, EXACT)
    choice = layer.choices(1, Traits(80, 4))[0]
    assert layer.workspace_bytes(1, choice) == 0
    with pytest.raises(InputValueError, match="RESIZE_NEAREST_NEIGHBOR: .* words in one launch"):
        layer.launches(choice, [ImageLayout.contiguous(1 << 28, 2, 2, 4)], ImageLayout.contiguous(1 << 28, 4, 4, 4))
