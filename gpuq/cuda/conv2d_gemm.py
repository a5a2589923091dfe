"""What CONV_2D on dp4a and on dp2a share: how the work is cut, the packed weights, and what a cut costs.

Both are the same GEMM, output pixels by output channels by K = (kh, kw, c): cuda/conv2d.py has the int8 kernels,
cuda/conv2d_int16.py those of int16 activations. Weights are int8 in both, so both read one packed layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.cuda.epilogue import round_up
from gpuq.numerics import Int64Array
from gpuq.ops.conv2d import Conv2dSpec

# What the packed layout is padded to: the largest tile's channels, the largest tile's elements of K.
PADDED_CHANNELS = 128
PADDED_K = 64

# The model of the costs, until measured, in units of one dp4a or dp2a: threads that keep a multiprocessor busy, a
# shared load, a global load of the direct convolution, what a pipeline of tiles costs before the first and after the
# last in tiles, and the second kernel of a split convolution per sum.
BUSY_THREADS = 256
LOADS_PER_MAC = 1.0
DIRECT_LOAD_COST = 8.0
PIPELINE_TILES = 4
FINISH_COST = 8.0


@dataclass(frozen=True)
class IgemmTile:
    """How a block of the implicit GEMM is cut; see kernels_cuda/conv2d_igemm_dp4a.cu.

    Attributes:
        min_blocks: blocks that share a multiprocessor, which bounds a thread's registers.
        bk: elements of K.
    """

    MACS: ClassVar[int]
    """Products of one instruction."""

    warps_m: int
    warps_n: int
    tm: int
    tn: int
    min_blocks: int
    bk: int = 32
    stages: int = 3

    @property
    def bm(self) -> int:
        """Output pixels of a block."""
        return self.warps_m * 4 * self.tm

    @property
    def bn(self) -> int:
        """Output channels of a block."""
        return self.warps_n * 8 * self.tn

    @property
    def threads(self) -> int:
        return self.warps_m * self.warps_n * 32

    @property
    def name(self) -> str:
        return f"conv2d_igemm_dp{self.MACS}a_{self.bm}x{self.bn}x{self.bk}"

    def cost(self, spec: Conv2dSpec, images: int, multiprocessors: int, splits: int = 1) -> float:
        """What the multiprocessor with the most blocks does.

        A block costs its share of pixels and channels, padding included; smaller thread tiles load more shared memory
        per instruction and cost more per MAC.
        """
        pixels, channels, _ = spec.gemm_mnk
        pixels *= images
        blocks = -(-pixels // self.bm) * -(-channels // self.bn) * spec.groups * splits
        loads = 1 + LOADS_PER_MAC * (1 / self.tm + 1 / self.tn)
        tiles = -(-k_tiles(spec, self.bk) // splits) + PIPELINE_TILES
        per_block = self.bm * self.bn * tiles * (self.bk // self.MACS) * loads
        finish = FINISH_COST * pixels * channels * spec.groups * splits / multiprocessors if splits > 1 else 0.0
        return _busiest(blocks, multiprocessors, self.threads, per_block) + finish


@dataclass(frozen=True)
class DirectTile:
    """How the direct convolution shares its work; see kernels_cuda/conv2d_direct_dp4a.cu.

    Attributes:
        lanes_k: neighbouring lanes that share the K of four neighbouring channels of a pixel.
    """

    MACS: ClassVar[int]
    """Products of one instruction."""

    lanes_k: int
    threads: int = 128

    @property
    def name(self) -> str:
        return f"conv2d_direct_dp{self.MACS}a_k{self.lanes_k}"

    def cost(self, spec: Conv2dSpec, images: int, multiprocessors: int) -> float:
        """What the multiprocessor with the most blocks does."""
        blocks = -(-direct_outputs(spec, images) * self.lanes_k // self.threads)
        # Per 16 bytes of x, one load of them and four of weights; then the sums of the lanes are added up.
        loads = -(-k_elements(spec) // (4 * self.MACS * self.lanes_k))
        per_lane = loads * (16 + 5 * DIRECT_LOAD_COST) + 8 * self.lanes_k.bit_length()
        return _busiest(blocks, multiprocessors, self.threads, per_lane * self.threads)


def _busiest(blocks: int, multiprocessors: int, threads: int, per_block: float) -> float:
    per_multiprocessor = -(-blocks // multiprocessors)
    # Too few warps cannot hide the latency of memory: time passes all the same.
    idle = max(1.0, BUSY_THREADS / (per_multiprocessor * threads))
    return per_multiprocessor * per_block * idle


def direct_outputs(spec: Conv2dSpec, images: int) -> int:
    """Outputs of the direct convolution, four neighbouring channels each."""
    pixels, channels, _ = spec.gemm_mnk
    return images * pixels * -(-channels // 4) * spec.groups


def pack_weights(spec: Conv2dSpec, codes: Int64Array) -> npt.NDArray[np.int8]:
    """(groups, O', K') of (O, K) weights within int8.

    O' is a multiple of 128, K' of 64; K is (kh, kw, c), c padded to whole words.
    """
    group_in, group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
    word_c = round_up(group_in, 4)
    padded_o = round_up(group_out, PADDED_CHANNELS)
    words = np.zeros((spec.groups, group_out, spec.window.taps, word_c), np.int8)
    words[..., :group_in] = codes.reshape(spec.groups, group_out, spec.window.taps, group_in)
    packed = np.zeros((spec.groups, padded_o, round_up(k_elements(spec), PADDED_K)), np.int8)
    packed[:, :group_out, : k_elements(spec)] = words.reshape(spec.groups, group_out, -1)
    return packed


def k_elements(spec: Conv2dSpec) -> int:
    """K of one group, each tap's channels padded to whole words of weights."""
    return spec.window.taps * round_up(spec.in_c // spec.groups, 4)


def k_tiles(spec: Conv2dSpec, bk: int) -> int:
    """Tiles of bk elements that K has."""
    return -(-k_elements(spec) // bk)


@lru_cache(maxsize=1024)
def k_table(spec: Conv2dSpec, vec: int) -> npt.NDArray[np.int32]:
    """For each load along K' {row offset, column offset, channel, valid channels}; see the kernels."""
    chunk = max(vec, 4)
    group_in = spec.in_c // spec.groups
    word_c = round_up(group_in, 4)
    k = np.arange(0, round_up(k_elements(spec), PADDED_K), chunk)
    tap, channel = k // word_c, k % word_c
    kh, kw = tap // spec.window.kernel_w, tap % spec.window.kernel_w
    valid = np.where(tap < spec.window.taps, np.minimum(group_in - channel, chunk), 0)
    table = np.stack([kh * spec.window.dilation_h, kw * spec.window.dilation_w, channel, valid], axis=1)
    # Padding must not look like a tap: offsets 0, no valid channel.
    table[valid <= 0] = 0
    packed = np.ascontiguousarray(table, np.int32)
    packed.flags.writeable = False
    return packed


def k_tables(spec: Conv2dSpec, vectors: tuple[int, ...]) -> dict[str, npt.NDArray[np.int32]]:
    """The tables of every load that the layer's channels allow, by the names of their Slots."""
    group_in = spec.in_c // spec.groups
    return {f"k_table_{vec}": k_table(spec, vec) for vec in vectors if vec == 1 or group_in % vec == 0}
