"""gpuq.cuda.unidirectional_sequence_lstm: random layers of every variant, run thread by thread on the CPU, and whole networks
of them in sessions.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import profiles
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.unidirectional_sequence_lstm import CHOICES, FOUR, ONE, WIDE, LstmChoice, LstmLayer, pack
from gpuq.devices import Device
from gpuq.errors import InputValueError, UnsupportedModel
from gpuq.model.model import Model
from gpuq.model.planner import Program, plan_program
from gpuq.model.tflite_reader import read
from gpuq.ops.registry import references
from gpuq.ops.unidirectional_sequence_lstm import UnidirectionalSequenceLstmSpec

from .compare import assert_equal_bits
from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher
from .lstm_layers import Sizes, Variant, float_lstm_layer, lstm_layer, random_sizes

__all__ = ["launcher"]

VARIANTS = [Variant(*flags) for flags in itertools.product((False, True), repeat=5)]
PLAIN = [variant for variant in VARIANTS if not (variant.cifg or variant.is_extended)]


def read_layer(content: bytes) -> tuple[UnidirectionalSequenceLstmSpec, list[Any]]:
    """The layer of a file, and its operands: None of the input and the states."""
    graph = read(content)
    (node,) = graph.nodes
    assert isinstance(node.spec, UnidirectionalSequenceLstmSpec)
    return node.spec, [graph.tensors[index].data if index >= 0 else None for index in node.inputs]


def check(
    launcher: HostLauncher,
    content: bytes,
    profile: str,
    choice: LstmChoice,
    rng: np.random.Generator,
    where: str,
    *,
    lowest: int = -128,
    cells_up_to: int = 32768,
) -> set[int]:
    """One call of one to five runs, from random states; the codes of the output.

    Args:
        lowest: of the input; the output state starts at its zero point where this is not -128.
        cells_up_to: what the magnitude of the cells is below.
    """
    spec, operands = read_layer(content)
    rule = profiles.resolve(profile, spec)
    layer = pack(spec, rule, operands)
    runs = int(rng.integers(1, 6))
    x = rng.integers(lowest, 128, (runs, *spec.x_shape)).astype(np.int8)
    hidden = random_codes(rng, (runs, *spec.output_shapes[1]), "int8")
    if lowest != -128:
        hidden[...] = spec.state_quant.scalar_zero_point()
    cells = rng.integers(-cells_up_to, cells_up_to, (runs, *spec.output_shapes[2])).astype(np.int16)
    want, *further = references(spec, rule, x, hidden, cells, *operands[3:])
    run_layer(
        launcher,
        layer,
        [x, hidden, cells],
        want,
        rng,
        f"{where}, {runs} runs, {profile}: {spec}",
        gaps=False,
        align=int(rng.choice([1, 4])),
        further=further,
        updates={1: 1, 2: 2} if rng.random() < 0.5 else None,
        choice=choice,
    )
    return set(want.reshape(-1).tolist())


@pytest.mark.parametrize("choice", CHOICES, ids=[choice.name for choice in CHOICES])
def test_layers_equal_reference(launcher: HostLauncher, choice: LstmChoice, seed: int) -> None:
    seen: set[int] = set()
    for number in range(scaled(len(VARIANTS))):
        rng, variant = np.random.default_rng([seed, number]), VARIANTS[number % len(VARIANTS)]
        sizes = random_sizes(rng, variant)
        if choice.wide:
            # Launches are what takes time here.
            sizes = replace(sizes, steps=min(sizes.steps, 2))
        content = lstm_layer(rng, variant, sizes)
        seen |= check(launcher, content, "litert_ref", choice, rng, f"seed {seed}, case {number}, {variant}")
    assert len(seen) > 200, "the codes must spread"


@pytest.mark.parametrize("profile", ["tflm", "single"])
def test_layers_of_tflite_micro_equal_reference(launcher: HostLauncher, profile: str, seed: int) -> None:
    for number in range(scaled(12)):
        rng = np.random.default_rng([seed, number])
        choice = CHOICES[number % len(CHOICES)] if profile == "tflm" else CHOICES[0]
        content = lstm_layer(rng, PLAIN[number % len(PLAIN)])
        check(launcher, content, profile, choice, rng, f"seed {seed}, case {number}")


@pytest.mark.parametrize(
    "variant", [VARIANTS[0], Variant(peepholes=True, projection=True, norms=True)], ids=["plain", "all"]
)
def test_more_cells_than_threads(launcher: HostLauncher, variant: Variant, seed: int) -> None:
    """Several pairs, cells and outputs for each thread; four items' states are beyond what shared memory is given."""
    rng = np.random.default_rng(seed)
    content = lstm_layer(rng, variant, Sizes(2, 2, 9, 1100, 601 if variant.projection else 1100))
    spec, operands = read_layer(content)
    layer = pack(spec, profiles.resolve("litert_ref", spec), operands)
    assert set(layer.choices(1, Traits(80, 100))) == {ONE, WIDE}
    for choice in (ONE, WIDE):
        check(launcher, content, "litert_ref", choice, rng, f"seed {seed}")


def test_layer_normalization_of_sums_that_are_nearly_alike(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = lstm_layer(rng, Variant(norms=True), Sizes(1, 3, 20, 100, 100), alike=True)
    check(launcher, content, "litert_ref", CHOICES[0], rng, f"seed {seed}", lowest=100)


def test_cells_in_whole_blocks_see_peepholes_with_ties_up(launcher: HostLauncher, seed: int) -> None:
    for number, (units, out_c) in enumerate([(48, 48), (40, 40), (50, 37), (33, 16), (40, 7)]):
        for time_major in (False, True):
            rng = np.random.default_rng([seed, number])
            variant = Variant(peepholes=True, projection=out_c < units, time_major=time_major)
            content = lstm_layer(rng, variant, Sizes(2, 2, 5, units, out_c))
            where = f"{units} cells, {out_c} outputs, {variant}, seed {seed}"
            check(launcher, content, "litert_ref", CHOICES[0], rng, where, cells_up_to=1000)


def test_choices_by_the_size_of_the_layer_and_the_batch(seed: int) -> None:
    def layer(units: int, variant: Variant = VARIANTS[0]) -> LstmLayer:
        spec, operands = read_layer(lstm_layer(np.random.default_rng(seed), variant, Sizes(1, 2, 3, units, units)))
        return pack(spec, profiles.resolve("litert_ref", spec), operands)

    traits = Traits(80, 100)
    assert layer(64).choices(8, traits) == [ONE, FOUR, WIDE]
    assert layer(64).choices(1000, traits)[0] == FOUR
    assert layer(700).choices(1, traits)[0] == WIDE
    # States that no block can hold.
    small = layer(20)
    huge = replace(small, spec=replace(small.spec, units=4800, out_c=4800))
    assert huge.choices(1, traits) == [WIDE]
    # A launch for every phase of a step, one for what all steps see of the input, and states loaded and stored.
    everything = Variant(peepholes=True, projection=True, norms=True)
    for variant, phases in ((VARIANTS[0], 2), (Variant(projection=True), 3), (Variant(norms=True), 5), (everything, 6)):
        one = layer(20, variant)
        layouts = [ImageLayout.contiguous(3, *shape) for shape in (*one.x_shapes, one.y_shape)]
        assert len(one.launches(WIDE, layouts[:3], layouts[3])) == 3 + 2 * phases
        assert len(one.launches(FOUR, layouts[:3], layouts[3])) == 2


def test_constant_inputs_are_refused(seed: int) -> None:
    spec, operands = read_layer(lstm_layer(np.random.default_rng(seed), Variant()))
    with pytest.raises(InputValueError, match="on a GPU the input must be an activation"):
        pack(spec, profiles.resolve("litert_ref", spec), [np.zeros(spec.x_shape, np.int8), *operands[1:]])


SESSIONS = [
    ("litert_ref", VARIANTS[0]),
    ("litert_opt", Variant(cifg=True, time_major=True)),
    ("xnnpack", Variant(peepholes=True)),
    ("litert_ref", Variant(projection=True)),
    ("litert_ref", Variant(norms=True, time_major=True)),
    ("litert_ref", VARIANTS[-1]),
    ("tflm", VARIANTS[0]),
    ("single", Variant(time_major=True)),
]


@pytest.mark.parametrize(("profile", "variant"), SESSIONS)
def test_sessions(launcher: HostLauncher, profile: str, variant: Variant, seed: int) -> None:
    """Sessions, calls from the initial state and batches, each as on the CPU, step by step and as one graph."""
    rng = np.random.default_rng(seed)
    check_sessions(launcher, profile, lstm_layer(rng, variant), rng, f"{variant}, seed {seed}")


def test_sessions_of_a_large_layer(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = lstm_layer(rng, Variant(projection=True), Sizes(1, 2, 7, 1200, 400))
    program = check_sessions(launcher, "litert_ref", content, rng, f"seed {seed}", runs=1)
    assert program.steps[0].kernel(1) == WIDE.name


def check_sessions(
    launcher: HostLauncher, profile: str, content: bytes, rng: np.random.Generator, where: str, runs: int = 3
) -> Program:
    program = plan_program(read(content), Device("cuda"), profile, launcher)
    ours = Model(program)
    cpu = gpuq.load(content, device="cpu", numerics=profile)
    lead, *shape = cpu.graph.tensors[cpu.graph.inputs[0]].shape
    frames = rng.integers(-128, 128, (4, runs * lead, *shape)).astype(np.int8)
    session, wanted = ours.session(runs), cpu.session(runs)
    for invoke, frame in enumerate(frames):
        here = f"invoke {invoke}, {profile}, {where}"
        assert_equal_bits(session(frame), wanted(frame), here)
        assert_equal_bits(ours(frame), cpu(frame), f"from the start, {here}")
        for state in cpu.graph.variables:
            got, kept = (each._workspace.view(state.index) for each in (session, wanted))
            assert_equal_bits(got, kept, f"{state.name}, {here}")
    session.reset()
    assert_equal_bits(session(frames[1]), cpu(frames[1]), f"after a reset, {where}")
    want = cpu.tensors(frames[0])
    for index, got in ours.tensors(frames[0]).items():
        assert_equal_bits(got, want[index], f"tensor {index}, {where}")
    return program


def test_float32_is_refused_by_name(launcher: HostLauncher, seed: int) -> None:
    content = float_lstm_layer(np.random.default_rng(seed), Variant())
    with pytest.raises(UnsupportedModel, match="UNIDIRECTIONAL_SEQUENCE_LSTM on float32.*there is no CUDA kernel"):
        plan_program(read(content), Device("cuda"), "litert_ref", launcher)
