"""UNIDIRECTIONAL_SEQUENCE_LSTM beside LiteRT and TFLite Micro: random layers of every variant, several invokes with the
states between them.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq.errors import MalformedModel, UnsupportedModel
from gpuq.model.tflite_reader import read
from gpuq.model.tflite_writer import write
from tests.compare import assert_equal_bits
from tests.lstm_layers import Sizes, Variant, float_lstm_layer, lstm_layer, random_sizes
from tests.networks import edited

from . import layers_each
from .runtimes import PEERS, LiteRT, PeerRefused

INVOKES = 3
LITERT = ("litert_ref", "litert_opt", "xnnpack")
VARIANTS = [Variant(*flags) for flags in itertools.product((False, True), repeat=5)]
"""All combinations: CIFG, peepholes, projection, layer normalization, time-major data."""
PLAIN = [variant for variant in VARIANTS if not (variant.cifg or variant.is_extended)]


def check_invokes(profile: str, content: bytes, rng: np.random.Generator, where: str, lowest: int = -128) -> None:
    """A session equals the interpreter's invokes, states and all; a call starts from zero state; a batch is
    independent runs.
    """
    model = gpuq.load(content, device="cpu", numerics=profile)
    shape = model.graph.tensors[model.graph.inputs[0]].shape
    frames = rng.integers(lowest, 128, (INVOKES, *shape)).astype(np.int8)
    peer, session = PEERS[profile](content), model.session()
    for invoke, frame in enumerate(frames):
        (want,) = peer.run([frame]).outputs
        assert_equal_bits(session(frame), want, f"{where}, invoke {invoke}, {profile}")
        if isinstance(peer, LiteRT):
            for state in model.graph.variables:
                got, kept = session._workspace.view(state.index)[0], peer._interpreter.get_tensor(state.index)
                assert_equal_bits(got, kept, f"{state.name} of {where}, invoke {invoke}, {profile}")
        if invoke == 0:
            assert_equal_bits(model(frame), want, f"{where}, {profile}")
    both = model(np.concatenate([frames[0], frames[1]]))
    assert_equal_bits(both[: len(frames[0])], model(frames[0]), f"batch, {where}, {profile}")


@pytest.mark.parametrize("profile", LITERT)
def test_random_layers(profile: str, seed: int) -> None:
    for number in range(layers_each(len(VARIANTS))):
        rng, variant = np.random.default_rng([seed, number]), VARIANTS[number % len(VARIANTS)]
        check_invokes(profile, lstm_layer(rng, variant), rng, f"{variant}, seed {seed}")


def test_random_layers_of_tflite_micro(seed: int) -> None:
    for number in range(layers_each(20)):
        rng, variant = np.random.default_rng([seed, number]), PLAIN[number % len(PLAIN)]
        check_invokes("tflm", lstm_layer(rng, variant), rng, f"{variant}, case {number}, seed {seed}")


def test_cells_in_whole_blocks_see_peepholes_with_ties_up(seed: int) -> None:
    """Blocks of 16, and what is left behind them; a projection's outputs count, and a step's whole batch."""
    for number, (batch, units, out_c) in enumerate([(1, 48, 48), (2, 40, 40), (3, 50, 37), (2, 33, 16), (2, 40, 7)]):
        for time_major in (False, True):
            rng = np.random.default_rng([seed, number])
            variant = Variant(peepholes=True, projection=out_c < units, time_major=time_major)
            content = lstm_layer(rng, variant, Sizes(batch, 4, 5, units, out_c))
            check_invokes("litert_ref", content, rng, f"{units} cells, {out_c} outputs, {variant}, seed {seed}")


def test_layer_normalization_of_sums_that_are_nearly_alike(seed: int) -> None:
    """The variance comes out negative, and normalized sums times coefficients beyond int32."""
    for number in range(6):
        rng = np.random.default_rng([seed, number])
        content = lstm_layer(rng, Variant(norms=True, cifg=number % 2 == 1), Sizes(1, 3, 20, 100, 100), alike=True)
        check_invokes("litert_ref", content, rng, f"case {number}, seed {seed}", lowest=100)


def test_older_files_name_twenty_inputs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_invokes("litert_ref", lstm_layer(rng, Variant(peepholes=True), inputs=20), rng, f"seed {seed}")


@pytest.mark.parametrize("profile", LITERT)
def test_litert_ignores_the_fused_activation(profile: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_invokes(profile, lstm_layer(rng, Variant(), activation=0), rng, f"seed {seed}")


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[-1]], ids=["plain", "all"])
def test_writing(variant: Variant, seed: int) -> None:
    content = lstm_layer(np.random.default_rng(seed), variant)
    assert read(write(read(content))).nodes == read(content).nodes


@pytest.mark.parametrize("profile", ["tflm", "single"])
def test_tflite_micro_has_the_plain_layer_alone(profile: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for variant, match in (
        (Variant(cifg=True), "without an input gate"),
        (Variant(peepholes=True), "with peepholes, a projection or layer normalization"),
        (Variant(projection=True), "with peepholes, a projection or layer normalization"),
        (Variant(norms=True), "with peepholes, a projection or layer normalization"),
    ):
        content = lstm_layer(rng, variant)
        with pytest.raises(UnsupportedModel, match=match):
            gpuq.load(content, device="cpu", numerics=profile)
        with pytest.raises(PeerRefused):
            PEERS["tflm"](content)


def test_refusals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for profile in ("tflm", "single"):
        with pytest.raises(UnsupportedModel, match="with a fused activation other than TANH, which its checks forbid"):
            gpuq.load(lstm_layer(rng, Variant(), activation=0), device="cpu", numerics=profile)
    with pytest.raises(UnsupportedModel, match="peepholes with more outputs than cells"):
        gpuq.load(lstm_layer(rng, Variant(peepholes=True, projection=True), Sizes(1, 2, 3, 4, 5)), device="cpu")
    with pytest.raises(MalformedModel, match="has 22 inputs, it must have 20 or 24"):
        gpuq.load(lstm_layer(rng, Variant(), inputs=22), device="cpu")
    with pytest.raises(PeerRefused, match="expects 20 or 24 inputs"):
        PEERS["litert_ref"](lstm_layer(rng, Variant(), inputs=22))


@pytest.mark.parametrize(
    ("intermediates", "match"),
    [([0, 1, 2, 3], "has 4 intermediates, it must have 5"), ([0, 1, 2, 3, 1000], "tensor 1000"), ([-1] * 5, "missing")],
)
def test_intermediates(intermediates: list[int], match: str, seed: int) -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].operators[0].intermediates = intermediates

    with pytest.raises(MalformedModel, match=match):
        gpuq.load(edited(lstm_layer(np.random.default_rng(seed), Variant()), change), device="cpu")


def test_weights_that_are_variables(seed: int) -> None:
    """LiteRT refuses the file, too."""

    def change(model: Any) -> None:
        model.subgraphs[0].tensors[1].isVariable = True

    content = edited(lstm_layer(np.random.default_rng(seed), Variant()), change)
    with pytest.raises(UnsupportedModel, match="variable .* that is a constant"):
        gpuq.load(content, device="cpu")
    with pytest.raises(PeerRefused):
        PEERS["litert_ref"](content)


def test_factors_beyond_the_multiplier(seed: int) -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].tensors[-1].quantization.scale = np.array([1e-30], np.float32)

    with pytest.raises(UnsupportedModel, match=r"must be below 2\^30"):
        gpuq.load(edited(lstm_layer(np.random.default_rng(seed), Variant()), change), device="cpu")


@pytest.mark.parametrize(
    ("position", "variant"),
    [(2, Variant()), (7, Variant()), (13, Variant()), (10, Variant(peepholes=True)), (22, Variant(norms=True))],
)
def test_constants_of_all_gates_or_of_none(position: int, variant: Variant, seed: int) -> None:
    def leave_out(model: Any) -> None:
        operator = model.subgraphs[0].operators[0]
        operator.inputs = [-1 if number == position else index for number, index in enumerate(operator.inputs)]

    with pytest.raises(MalformedModel, match="UNIDIRECTIONAL_SEQUENCE_LSTM"):
        gpuq.load(edited(lstm_layer(np.random.default_rng(seed), variant), leave_out), device="cpu")


FLOAT_BOUND = 64 * 2.0**-24


@pytest.mark.parametrize("profile", LITERT)
def test_float32_layers(profile: str, seed: int) -> None:
    """Within a bound, as sums have no order and LiteRT has polynomials of its own for sigmoid and tanh."""
    for number, variant in enumerate(VARIANTS):
        rng = np.random.default_rng([seed, number])
        sizes = random_sizes(rng, variant, narrows=True)
        if variant.norms:
            # Few cells that are nearly alike: their deviations are what rounding has left of them.
            sizes = replace(sizes, units=sizes.units + 8, out_c=sizes.out_c if variant.projection else sizes.out_c + 8)
        content = float_lstm_layer(rng, variant, sizes)
        model, peer = gpuq.load(content, device="cpu", numerics=profile), PEERS[profile](content)
        session = model.session()
        shape = model.graph.tensors[model.graph.inputs[0]].shape
        for invoke in range(INVOKES):
            frame = rng.normal(size=shape).astype(np.float32)
            (want,) = peer.run([frame]).outputs
            got = session(frame)
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            apart = np.abs(got.astype(np.float64) - want).max()
            bound = FLOAT_BOUND * max(1.0, np.abs(want).max())
            assert apart <= bound, f"{apart / bound} bounds, {variant}, invoke {invoke}, {profile}, seed {seed}"


def test_float32_batches_and_files(seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = float_lstm_layer(rng, VARIANTS[-1])
    model = gpuq.load(content, device="cpu")
    lead, *shape = model.graph.tensors[model.graph.inputs[0]].shape
    frames = rng.normal(size=(3 * lead, *shape)).astype(np.float32)
    assert_equal_bits(model(frames)[:lead], model(frames[:lead]), f"batch, seed {seed}")
    assert read(write(read(content))).nodes == read(content).nodes


def test_float32_refusals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for profile in ("tflm", "single"):
        with pytest.raises(UnsupportedModel, match="UNIDIRECTIONAL_SEQUENCE_LSTM on float32"):
            gpuq.load(float_lstm_layer(rng, Variant()), device="cpu", numerics=profile)
    with pytest.raises(UnsupportedModel, match="a fused activation other than TANH"):
        gpuq.load(float_lstm_layer(rng, Variant(), activation=1), device="cpu")
    with pytest.raises(UnsupportedModel, match="more float32 outputs than cells"):
        gpuq.load(float_lstm_layer(rng, Variant(projection=True), Sizes(1, 2, 3, 4, 5)), device="cpu")
    with pytest.raises(UnsupportedModel, match="float32 tensors with weights of int8"):
        gpuq.load(float_lstm_layer(rng, Variant(), weights=np.int8), device="cpu")
