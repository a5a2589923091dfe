"""Random one-operator models, bit for bit, beside LiteRT's three resolvers and TFLite Micro.

GPUQ_PEER_CASES is the number of cases of each profile, dealt to its operators by their weights in the tables below; by
default a table's numbers are the cases. GPUQ_PEER_SCALE multiplies them (0.1 for a glance, 50 for a night). GPUQ_SEED
repeats a run: it is printed at the start of the session and with each failure.

A failing case is shrunk, and its `.tflite` and inputs are left in GPUQ_PEER_FAILURES (build/peer_failures).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

import gpuq
from tests.compare import assert_equal_bits

from . import strategies as ops
from . import strategies_arithmetic as sums
from . import strategies_dynamic_range as dynamic
from . import strategies_movement as moves
from .runtimes import PEERS, PeerRefused, run_samples
from .strategies import INT8_ONLY, INT16_ONLY, Case

MAX_REFUSED = 0.05
"""The share of cases that a peer may refuse; more, and a strategy draws what nobody runs."""

LITERT: dict[str, tuple[Callable[[], SearchStrategy[Case]], int]] = {
    "CONV_2D": (ops.conv_2d, 900),
    "DEPTHWISE_CONV_2D": (ops.depthwise_conv_2d, 600),
    "FULLY_CONNECTED": (ops.fully_connected, 450),
    "ADD": (partial(ops.binary, "ADD"), 200),
    "SUB": (partial(ops.binary, "SUB"), 200),
    "MUL": (partial(ops.binary, "MUL"), 250),
    "AVERAGE_POOL_2D": (partial(ops.pool, "AVERAGE_POOL_2D"), 150),
    "MAX_POOL_2D": (partial(ops.pool, "MAX_POOL_2D"), 100),
    "MEAN": (ops.mean, 250),
    "SOFTMAX": (ops.softmax, 150),
    "LOGISTIC": (ops.logistic, 60),
    "RELU": (partial(ops.relu, "RELU"), 150),
    "RELU6": (partial(ops.relu, "RELU6"), 150),
    "QUANTIZE_float": (ops.quantize_float, 150),
    "QUANTIZE_codes": (ops.requantize, 150),
    "DEQUANTIZE": (ops.dequantize, 50),
    "CONCATENATION": (ops.concatenation, 150),
    "PAD": (ops.pad, 60),
    "RESIZE_BILINEAR": (partial(ops.resize, "RESIZE_BILINEAR"), 100),
    "RESIZE_BILINEAR_eightfold": (partial(ops.resize, "RESIZE_BILINEAR", ["uint8"], eightfold=True), 20),
    "RESIZE_NEAREST_NEIGHBOR": (partial(ops.resize, "RESIZE_NEAREST_NEIGHBOR"), 80),
    "ARG_MAX": (ops.arg_max, 50),
    "RESHAPE": (ops.reshape, 50),
    "SQUEEZE": (ops.squeeze, 50),
    "EXPAND_DIMS": (ops.expand_dims, 50),
    "CONV_2D_int4": (partial(ops.conv_2d, INT8_ONLY, bits=4), 60),
    "DEPTHWISE_CONV_2D_int4": (partial(ops.depthwise_conv_2d, INT8_ONLY, bits=4), 60),
    "FULLY_CONNECTED_int4": (partial(ops.fully_connected, INT8_ONLY, legacy=False, bits=4), 60),
    "FULLY_CONNECTED_int2": (partial(ops.fully_connected, INT8_ONLY, legacy=False, bits=2), 60),
    "RELU_N1_TO_1": (partial(ops.relu, "RELU_N1_TO_1"), 60),
    "RELU_0_TO_1": (partial(ops.relu, "RELU_0_TO_1"), 60),
    "TANH": (sums.tanh, 60),
    "HARD_SWISH": (sums.hard_swish, 100),
    "LEAKY_RELU": (sums.leaky_relu, 150),
    "ABS": (partial(ops.relu, "ABS", INT8_ONLY), 100),
    "SQRT": (partial(sums.root, "SQRT"), 60),
    "RSQRT": (partial(sums.root, "RSQRT"), 60),
    "NEG": (sums.neg, 30),
    "FLOOR_DIV": (sums.floor_div, 30),
    "DIV": (sums.div, 60),
    "PRELU": (sums.prelu, 150),
    "MAXIMUM": (partial(sums.maximum, "MAXIMUM"), 40),
    "MINIMUM": (partial(sums.maximum, "MINIMUM"), 40),
    "SQUARED_DIFFERENCE": (sums.squared_difference, 100),
    "comparisons": (sums.comparison, 120),
    "SELECT": (partial(sums.select, "SELECT"), 40),
    "SELECT_V2": (partial(sums.select, "SELECT_V2"), 40),
    "SUM": (partial(sums.total, with_bytes=True), 150),
    "REDUCE_MAX": (partial(sums.extreme, "REDUCE_MAX"), 40),
    "REDUCE_MIN": (partial(sums.extreme, "REDUCE_MIN"), 40),
    "L2_NORMALIZATION": (sums.l2_normalization, 100),
    "BATCH_MATMUL": (sums.batch_matmul, 150),
    "TRANSPOSE_CONV": (sums.transpose_conv, 250),
    "TRANSPOSE": (moves.transpose, 40),
    "STRIDED_SLICE": (moves.strided_slice, 100),
    "SLICE": (moves.slice_, 40),
    "SPLIT": (moves.split, 40),
    "SPLIT_V": (moves.split_v, 40),
    "UNPACK": (moves.unpack, 40),
    "PACK": (moves.pack, 40),
    "GATHER": (moves.gather, 60),
    "GATHER_ND": (moves.gather_nd, 40),
    "TILE": (moves.tile, 30),
    "BROADCAST_TO": (moves.broadcast_to, 30),
    "REVERSE_V2": (moves.reverse_v2, 30),
    "SPACE_TO_DEPTH": (partial(moves.space_to_depth, "SPACE_TO_DEPTH"), 30),
    "DEPTH_TO_SPACE": (partial(moves.space_to_depth, "DEPTH_TO_SPACE"), 30),
    "SPACE_TO_BATCH_ND": (moves.space_to_batch_nd, 40),
    "BATCH_TO_SPACE_ND": (moves.batch_to_space_nd, 40),
    "PADV2": (moves.padv2, 30),
    "MIRROR_PAD": (moves.mirror_pad, 40),
    "CAST": (moves.cast, 30),
}

INT16: dict[str, tuple[Callable[[], SearchStrategy[Case]], int]] = {
    "CONV_2D_int16": (partial(ops.conv_2d, INT16_ONLY), 60),
    "DEPTHWISE_CONV_2D_int16": (partial(ops.depthwise_conv_2d, INT16_ONLY, biased=True), 40),
    "FULLY_CONNECTED_int16": (partial(ops.fully_connected, INT16_ONLY, legacy=False), 40),
    "ADD_int16": (partial(ops.binary, "ADD", INT16_ONLY), 40),
    "SUB_int16": (partial(ops.binary, "SUB", INT16_ONLY, sub_below_one=True), 30),
    "MUL_int16": (partial(ops.binary, "MUL", INT16_ONLY), 30),
    "AVERAGE_POOL_2D_int16": (partial(ops.pool, "AVERAGE_POOL_2D", INT16_ONLY), 20),
    "MAX_POOL_2D_int16": (partial(ops.pool, "MAX_POOL_2D", INT16_ONLY), 10),
    "MEAN_int16": (partial(ops.mean, INT16_ONLY), 30),
    "SOFTMAX_int16": (partial(ops.softmax, INT16_ONLY), 20),
    "LOGISTIC_int16": (partial(ops.logistic, INT16_ONLY), 20),
    "RELU_int16": (partial(ops.relu, "RELU", INT16_ONLY), 20),
    "RELU6_int16": (partial(ops.relu, "RELU6", INT16_ONLY), 20),
    "QUANTIZE_float_int16": (partial(ops.quantize_float, INT16_ONLY), 20),
    "QUANTIZE_codes_int16": (
        partial(ops.requantize, [("int8", "int16"), ("int16", "int8"), ("int16", "int16")]),
        30,
    ),
    "DEQUANTIZE_int16": (partial(ops.dequantize, INT16_ONLY), 10),
    "CONCATENATION_int16": (partial(ops.concatenation, INT16_ONLY), 10),
    "PAD_int16": (partial(ops.pad, INT16_ONLY), 10),
    "RESIZE_NEAREST_NEIGHBOR_int16": (partial(ops.resize, "RESIZE_NEAREST_NEIGHBOR", INT16_ONLY), 10),
    "TANH_int16": (partial(sums.tanh, INT16_ONLY), 20),
    "LEAKY_RELU_int16": (partial(sums.leaky_relu, INT16_ONLY), 20),
    "PRELU_int16": (partial(sums.prelu, INT16_ONLY), 20),
    "TRANSPOSE_CONV_int16": (partial(sums.transpose_conv, INT16_ONLY), 30),
    "RESHAPE_int16": (partial(ops.reshape, INT16_ONLY), 5),
    "ABS_int16": (partial(ops.relu, "ABS", INT16_ONLY), 20),
    "MAXIMUM_int16": (partial(sums.maximum, "MAXIMUM", INT16_ONLY), 5),
    "SELECT_V2_int16": (partial(sums.select, "SELECT_V2", INT16_ONLY), 5),
    "TRANSPOSE_int16": (partial(moves.transpose, INT16_ONLY), 5),
    "STRIDED_SLICE_int16": (partial(moves.strided_slice, INT16_ONLY, masks=False), 5),
    "SLICE_int16": (partial(moves.slice_, INT16_ONLY), 5),
    "SPLIT_int16": (partial(moves.split, INT16_ONLY, micro=True), 5),
    "SPLIT_V_int16": (partial(moves.split_v, INT16_ONLY, micro=True), 5),
    "UNPACK_int16": (partial(moves.unpack, INT16_ONLY), 5),
    "PACK_int16": (partial(moves.pack, INT16_ONLY), 5),
    "BROADCAST_TO_int16": (partial(moves.broadcast_to, INT16_ONLY), 5),
    "REVERSE_V2_int16": (partial(moves.reverse_v2, INT16_ONLY), 5),
    "PADV2_int16": (partial(moves.padv2, INT16_ONLY), 5),
}
"""int16 activations, everywhere."""

LITERT_INT16 = INT16 | {
    "RESIZE_BILINEAR_int16": (partial(ops.resize, "RESIZE_BILINEAR", INT16_ONLY), 20),
    "SELECT_int16": (partial(sums.select, "SELECT", INT16_ONLY), 5),
    "REDUCE_MAX_int16": (partial(sums.extreme, "REDUCE_MAX", INT16_ONLY), 5),
    "REDUCE_MIN_int16": (partial(sums.extreme, "REDUCE_MIN", INT16_ONLY), 5),
    "GATHER_int16": (partial(moves.gather, INT16_ONLY), 5),
    "GATHER_ND_int16": (partial(moves.gather_nd, INT16_ONLY), 5),
    "TILE_int16": (partial(moves.tile, INT16_ONLY), 5),
    "SPACE_TO_BATCH_ND_int16": (partial(moves.space_to_batch_nd, INT16_ONLY), 5),
    "BATCH_TO_SPACE_ND_int16": (partial(moves.batch_to_space_nd, INT16_ONLY), 5),
    "MIRROR_PAD_int16": (partial(moves.mirror_pad, INT16_ONLY), 5),
    "SQRT_int16": (partial(sums.root, "SQRT", INT16_ONLY), 20),
    "RSQRT_int16": (partial(sums.root, "RSQRT", INT16_ONLY), 20),
    "CONV_2D_int16x4": (partial(ops.conv_2d, INT16_ONLY, bits=4), 10),
    "FULLY_CONNECTED_int16x4": (partial(ops.fully_connected, INT16_ONLY, legacy=False, bits=4), 10),
    "FULLY_CONNECTED_int16x2": (partial(ops.fully_connected, INT16_ONLY, legacy=False, bits=2), 10),
    "comparisons_int16": (partial(sums.comparison, INT16_ONLY), 20),
    "ADD_int16_power_of_two": (partial(sums.power_of_two, "ADD"), 10),
    "SUB_int16_power_of_two": (partial(sums.power_of_two, "SUB"), 10),
    "BATCH_MATMUL_int16": (partial(sums.batch_matmul, [("int16", "int16"), ("int16", "int16"), ("int16", "int8")]), 30),
}

TFLM: dict[str, tuple[Callable[[], SearchStrategy[Case]], int]] = {
    "CONV_2D": (partial(ops.conv_2d, INT8_ONLY), 150),
    "DEPTHWISE_CONV_2D": (partial(ops.depthwise_conv_2d, INT8_ONLY), 100),
    "FULLY_CONNECTED": (partial(ops.fully_connected, INT8_ONLY, legacy=False), 150),
    "ADD": (partial(ops.binary, "ADD", INT8_ONLY), 60),
    "SUB": (partial(ops.binary, "SUB", INT8_ONLY, sub_below_one=True), 100),
    "MUL": (partial(ops.binary, "MUL", INT8_ONLY), 150),
    "AVERAGE_POOL_2D": (partial(ops.pool, "AVERAGE_POOL_2D", INT8_ONLY), 40),
    "MAX_POOL_2D": (partial(ops.pool, "MAX_POOL_2D", INT8_ONLY), 20),
    "MEAN": (partial(ops.mean, INT8_ONLY), 60),
    "SOFTMAX": (partial(ops.softmax, INT8_ONLY), 40),
    "LOGISTIC": (partial(ops.logistic, INT8_ONLY), 60),
    "RELU": (partial(ops.relu, "RELU", INT8_ONLY), 60),
    "RELU6": (partial(ops.relu, "RELU6", INT8_ONLY), 60),
    "QUANTIZE_float": (partial(ops.quantize_float, INT8_ONLY), 40),
    "QUANTIZE_codes": (
        partial(ops.requantize, [("int8", "int8"), ("int8", "uint8"), ("uint8", "int8")]),
        60,
    ),
    "DEQUANTIZE": (partial(ops.dequantize, INT8_ONLY), 10),
    "CONCATENATION": (partial(ops.concatenation, INT8_ONLY), 10),
    "PAD": (partial(ops.pad, INT8_ONLY), 10),
    "RESIZE_BILINEAR": (partial(ops.resize, "RESIZE_BILINEAR", INT8_ONLY), 15),
    "RESIZE_NEAREST_NEIGHBOR": (partial(ops.resize, "RESIZE_NEAREST_NEIGHBOR", INT8_ONLY), 10),
    "ARG_MAX": (partial(ops.arg_max, INT8_ONLY, ["int32"]), 10),
    "CONV_2D_int4": (partial(ops.conv_2d, INT8_ONLY, bits=4), 20),
    "DEPTHWISE_CONV_2D_int4": (partial(ops.depthwise_conv_2d, INT8_ONLY, bits=4), 20),
    "FULLY_CONNECTED_int4": (partial(ops.fully_connected, INT8_ONLY, legacy=False, bits=4, axes=False), 20),
    "TANH": (partial(sums.tanh, INT8_ONLY), 60),
    "ELU": (sums.elu, 60),
    "HARD_SWISH": (partial(sums.hard_swish, INT8_ONLY), 40),
    "LEAKY_RELU": (partial(sums.leaky_relu, INT8_ONLY), 60),
    "ABS": (partial(ops.relu, "ABS", INT8_ONLY), 40),
    "RSQRT": (partial(sums.root, "RSQRT"), 60),
    "PRELU": (partial(sums.prelu, INT8_ONLY), 100),
    "MAXIMUM": (partial(sums.maximum, "MAXIMUM", ("int8", "int32", "int64")), 10),
    "MINIMUM": (partial(sums.maximum, "MINIMUM", ("int8", "int32", "int64")), 10),
    "SQUARED_DIFFERENCE": (sums.squared_difference, 40),
    "comparisons": (partial(sums.comparison, ("int8", "int32", "int64", "bool")), 40),
    "SELECT_V2": (partial(sums.select, "SELECT_V2", INT8_ONLY), 10),
    "SUM": (partial(sums.total, INT8_ONLY), 60),
    "REDUCE_MAX": (partial(sums.extreme, "REDUCE_MAX", INT8_ONLY), 10),
    "REDUCE_MIN": (partial(sums.extreme, "REDUCE_MIN", INT8_ONLY), 10),
    "L2_NORMALIZATION": (partial(sums.l2_normalization, INT8_ONLY), 40),
    "BATCH_MATMUL": (sums.batch_matmul, 120),
    "TRANSPOSE_CONV": (partial(sums.transpose_conv, INT8_ONLY), 60),
    "TRANSPOSE": (partial(moves.transpose, ("int8", "float32")), 10),
    "STRIDED_SLICE": (partial(moves.strided_slice, ("int8", "int32", "float32", "bool"), masks=False), 30),
    "SLICE": (partial(moves.slice_, ("int8", "int32", "float32", "bool")), 10),
    "SPLIT": (partial(moves.split, ("int8", "int32", "float32"), micro=True), 10),
    "SPLIT_V": (partial(moves.split_v, ("int8", "int32", "float32"), micro=True), 10),
    "UNPACK": (partial(moves.unpack, ("int8", "int32", "float32")), 10),
    "PACK": (partial(moves.pack, ("int8", "int32", "int64", "float32")), 10),
    "GATHER": (partial(moves.gather, ("int8", "float32"), ("int32",)), 20),
    "GATHER_ND": (partial(moves.gather_nd, ("int8", "float32"), ("int32",)), 10),
    "BROADCAST_TO": (moves.broadcast_to, 10),
    "REVERSE_V2": (moves.reverse_v2, 10),
    "SPACE_TO_DEPTH": (partial(moves.space_to_depth, "SPACE_TO_DEPTH", ("int8", "float32")), 10),
    "DEPTH_TO_SPACE": (partial(moves.space_to_depth, "DEPTH_TO_SPACE", ("int8", "float32")), 10),
    "SPACE_TO_BATCH_ND": (partial(moves.space_to_batch_nd, ("int8", "float32"), pads=False), 10),
    "BATCH_TO_SPACE_ND": (partial(moves.batch_to_space_nd, ("int8", "float32")), 10),
    "PADV2": (partial(moves.padv2, ("int8", "int32", "float32")), 10),
    "MIRROR_PAD": (partial(moves.mirror_pad, ("int8", "float32")), 10),
    "CAST": (partial(moves.cast, ("int8", "int16", "int32", "bool"), ("int8", "int16", "int32", "bool")), 10),
}


OPTIMIZED = {op: (strategy, -(-examples // 4)) for op, (strategy, examples) in LITERT.items()} | {
    "SUM": (partial(sums.total, in_float=True), 60),
    "ELU": (sums.elu, 40),
    "TANH": (sums.tanh, 40),
}

# Of each operator a sample. LiteRT's optimized depthwise kernels crash without a bias, its ADD and MUL wrap beyond int16,
# and XNNPACK fails on factors of 256 and more.
LITERT_OPT = OPTIMIZED | {
    "DEPTHWISE_CONV_2D_int4": (partial(ops.depthwise_conv_2d, INT8_ONLY, biased=True, bits=4), 12),
    "ADD": (partial(ops.binary, "ADD", int16=True), 50),
    "MUL": (partial(ops.binary, "MUL", int16=True), 60),
    "DEPTHWISE_CONV_2D": (partial(ops.depthwise_conv_2d, biased=True), 200),
    "TRANSPOSE_CONV": (sums.transpose_conv, 100),
}
XNNPACK = OPTIMIZED | {
    "ADD": (partial(ops.binary, "ADD", int16=True), 50),
    "MUL": (partial(ops.binary, "MUL", int16=True), 60),
    "CONV_2D": (partial(ops.conv_2d, xnnpack=True), 220),
    "DEPTHWISE_CONV_2D": (partial(ops.depthwise_conv_2d, biased=True, xnnpack=True), 150),
    "FULLY_CONNECTED": (partial(ops.fully_connected, xnnpack=True), 120),
    "FULLY_CONNECTED_int4": (partial(ops.fully_connected, INT8_ONLY, legacy=False, xnnpack=True, bits=4), 40),
    "FULLY_CONNECTED_int2": (partial(ops.fully_connected, INT8_ONLY, legacy=False, xnnpack=True, bits=2), 40),
    "DEPTHWISE_CONV_2D_int4": (partial(ops.depthwise_conv_2d, INT8_ONLY, biased=True, bits=4), 12),
    "TRANSPOSE_CONV": (partial(sums.transpose_conv, xnnpack=True), 100),
    "LEAKY_RELU": (sums.leaky_relu, 60),
    "BATCH_MATMUL": (sums.batch_matmul, 60),
}

DYNAMIC_RANGE: dict[str, tuple[Callable[[], SearchStrategy[Case]], int]] = {
    f"{op}_dynamic_range": (partial(dynamic.hybrid, op), 60)
    for op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
}
# LiteRT's reference SUM leaves half of an int16 output unwritten.
SUM_INT16 = {"SUM_int16": (partial(sums.total, INT16_ONLY), 20)}
SUM_INT16_IN_FLOAT = {"SUM_int16": (partial(sums.total, INT16_ONLY, in_float=True), 20)}
LITERT |= LITERT_INT16 | DYNAMIC_RANGE
LITERT_OPT |= LITERT_INT16 | DYNAMIC_RANGE | SUM_INT16_IN_FLOAT
XNNPACK |= LITERT_INT16 | DYNAMIC_RANGE | SUM_INT16_IN_FLOAT
TFLM |= (
    INT16
    | SUM_INT16
    | {
        "BATCH_MATMUL_int16": (partial(sums.batch_matmul, [("int16", "int16")]), 30),
        "SQUARED_DIFFERENCE_int16": (partial(sums.squared_difference, INT16_ONLY), 20),
        "RSQRT_int16": (partial(sums.root, "RSQRT", INT16_ONLY), 20),
    }
)

TABLES = {"litert_ref": LITERT, "litert_opt": LITERT_OPT, "xnnpack": XNNPACK, "tflm": TFLM}


def examples_of(profile: str, op: str) -> int:
    """How many cases of an operator this run draws."""
    table = TABLES[profile]
    total = os.environ.get("GPUQ_PEER_CASES")
    share = float(total) / sum(examples for _, examples in table.values()) if total else 1.0
    return math.ceil(table[op][1] * share)


def save(profile: str, case: Case) -> Path:
    """Leaves a case where it can be looked at; the path of its model."""
    folder = Path(os.environ.get("GPUQ_PEER_FAILURES", "build/peer_failures"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile}-{case.op.lower()}.tflite"
    path.write_bytes(case.model)
    np.savez(path.with_suffix(".npz"), *case.inputs)
    return path


def check(strategy: SearchStrategy[Case], numerics: str, examples: int) -> None:
    """Runs random cases through the profile's peer and through gpuq, and compares every byte."""
    seed = int(os.environ["GPUQ_SEED"])
    drawn = 0
    refused: list[str] = []

    @hypothesis.seed(seed)
    @settings(
        settings.get_profile("gpuq"),
        max_examples=max(1, round(examples * float(os.environ.get("GPUQ_PEER_SCALE", "1")))),
    )
    @given(strategy)
    def compare(case: Case) -> None:
        nonlocal drawn
        drawn += 1
        context = f"{numerics} {case!r} (GPUQ_SEED={seed} repeats the run)"
        try:
            want = run_samples(PEERS[numerics](case.model), case.inputs).outputs
        except PeerRefused as refusal:
            refused.append(f"{context}\n{refusal}")
            return
        model = gpuq.load(case.model, numerics=numerics)
        got = model(*case.inputs)
        outputs = [got] if isinstance(got, np.ndarray) else list(got)
        assert len(outputs) == len(want), context
        try:
            for number, (one, expected) in enumerate(zip(outputs, want, strict=True)):
                assert_equal_bits(one, expected, f"output {number}, {context}")
        except AssertionError as error:
            # Hypothesis shrinks, and runs the smallest failing case last.
            raise AssertionError(f"{error}\nleft in {save(numerics, case)}") from None

    compare()
    assert len(refused) <= MAX_REFUSED * drawn, (
        f"the peer refused {len(refused)} of {drawn} cases, the last: {refused[-1]}"
    )


@pytest.mark.parametrize("op", LITERT)
def test_litert_ref(op: str) -> None:
    check(LITERT[op][0](), "litert_ref", examples_of("litert_ref", op))


@pytest.mark.parametrize("op", LITERT_OPT)
def test_litert_opt(op: str) -> None:
    check(LITERT_OPT[op][0](), "litert_opt", examples_of("litert_opt", op))


@pytest.mark.parametrize("op", XNNPACK)
def test_xnnpack(op: str) -> None:
    check(XNNPACK[op][0](), "xnnpack", examples_of("xnnpack", op))


@pytest.mark.parametrize("op", TFLM)
def test_tflm(op: str) -> None:
    check(TFLM[op][0](), "tflm", examples_of("tflm", op))
