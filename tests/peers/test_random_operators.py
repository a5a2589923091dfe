"""Random one-operator models, bit for bit: beside LiteRT's reference kernels and TFLite Micro.

GPUQ_PEER_SCALE multiplies the number of cases (1 by default, 0.1 for a glance, 50 for a night).
GPUQ_SEED repeats a run: it is printed at the start of the session and with each failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

import gpuq
from tests.compare import assert_equal_bits

from . import strategies as ops
from .runtimes import PEERS, PeerRefused, run_samples
from .strategies import INT8_ONLY, Case

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
    "RESIZE_NEAREST_NEIGHBOR": (partial(ops.resize, "RESIZE_NEAREST_NEIGHBOR"), 80),
    "ARG_MAX": (ops.arg_max, 50),
    "RESHAPE": (ops.reshape, 50),
    "SQUEEZE": (ops.squeeze, 50),
    "EXPAND_DIMS": (ops.expand_dims, 50),
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
}


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
        assert_equal_bits(got, want[0], context)

    compare()
    assert len(refused) <= MAX_REFUSED * drawn, (
        f"the peer refused {len(refused)} of {drawn} cases, the last: {refused[-1]}"
    )


@pytest.mark.parametrize("op", LITERT)
def test_litert_ref(op: str) -> None:
    strategy, examples = LITERT[op]
    check(strategy(), "litert_ref", examples)


@pytest.mark.parametrize("op", TFLM)
def test_tflm(op: str) -> None:
    strategy, examples = TFLM[op]
    check(strategy(), "tflm", examples)
