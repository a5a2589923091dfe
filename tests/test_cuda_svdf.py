"""gpuq.cuda.svdf: random layers over several steps, state in one memory or two, run thread by thread on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import gpuq
from gpuq.cuda.layer import Traits
from gpuq.cuda.svdf import CHOICES, SvdfChoice, pack
from gpuq.devices import Device
from gpuq.errors import InputValueError
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.svdf import SvdfSpec, reference
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher
from .peers import test_svdf as peers
from .test_fusion import Net

__all__ = ["launcher"]


def random_spec(rng: np.random.Generator, dtype: str) -> SvdfSpec:
    rows, in_c, units, rank, memory = (int(n) for n in rng.integers(1, (4, 70, 9, 4, 45)))
    if rng.random() < 0.3:
        in_c = 4 * in_c
    # Scales with which results spread over all codes, and some leave their range.
    state_scale = 2.0 ** (rng.uniform(-5, -1) if dtype == "int8" else rng.uniform(-12, -8))
    out_scale = state_scale * np.sqrt(rank * memory) * 2.0 ** rng.uniform(-2, 2)
    out_scale *= 90 if dtype == "int8" else 2**22
    return SvdfSpec(
        rows=rows,
        in_c=in_c,
        units=units,
        rank=rank,
        memory=memory,
        x_quant=Quant(2.0**-6, int(rng.integers(-128, 128))),
        feature_quant=Quant(2.0**-3 / np.sqrt(in_c), 0),
        time_quant=Quant(1.0, 0, dtype=dtype),
        state_quant=Quant(state_scale, int(rng.integers(-128, 128)) if dtype == "int8" else 0, dtype=dtype),
        out_quant=Quant(out_scale, int(rng.integers(-128, 128))),
    )


@pytest.mark.parametrize("dtype", ["int16", "int8"])
@pytest.mark.parametrize("rounding", [Rounding.V1, Rounding.V2])
@pytest.mark.parametrize("choice", CHOICES, ids=[choice.name for choice in CHOICES])
def test_steps_equal_reference(
    launcher: HostLauncher, choice: SvdfChoice, rounding: Rounding, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng([seed, choice.lanes, rounding is Rounding.V1, dtype == "int8"])
    rule = Rule(rounding, Product.ALL_F32)
    seen: set[int] = set()
    for case in range(scaled(15)):
        spec = random_spec(rng, dtype)
        features = random_codes(rng, (spec.filters, spec.in_c), "int8")
        times = random_codes(rng, (spec.filters, spec.memory), dtype)
        bias = None if case % 3 == 0 else rng.integers(-(1 << 12), 1 << 12, spec.units).astype(np.int32)
        if case % 7 == 1:
            bias = np.full(spec.units, (1 << 31) - 5, np.int32)  # sums wrap
        layer = pack(spec, rule, (None, features, times, None, bias))
        runs = int(rng.integers(1, 4))
        state = random_codes(rng, (runs, spec.rows, spec.filters * spec.memory), dtype)
        for step in range(2):
            x = random_codes(rng, (runs, spec.rows, spec.in_c), "int8")
            want, after = reference(spec, rule, x, features[None], times[None], state, bias)
            run_layer(
                launcher,
                layer,
                [x, state],
                want,
                rng,
                f"seed {seed}, case {case}, step {step}: {spec}",
                gaps=False,
                align=int(rng.choice([1, 4])),
                further=[after],
                updates={1: 1} if rng.random() < 0.5 else None,
                choice=choice,
            )
            state = after
            seen.update(want.reshape(-1).tolist())
    assert len(seen) > 100, "the codes must spread"


def test_choices_by_the_number_of_outputs() -> None:
    spec = replace(random_spec(np.random.default_rng(3), "int16"), rows=1, units=64, rank=1, in_c=96, memory=8)
    features, times = np.ones((spec.filters, spec.in_c), np.int8), np.ones((spec.filters, spec.memory), np.int16)
    layer = pack(spec, Rule(Rounding.V1, Product.ALL_F32), (None, features, times, None, None))
    # Few outputs have a warp each, unless a warp would find nothing to do.
    assert [choice.lanes for choice in layer.choices(1, Traits(80, 100))] == [32, 8]
    assert [choice.lanes for choice in layer.choices(1000, Traits(80, 100))] == [8, 32]
    narrow = replace(spec, in_c=32)
    layer = pack(narrow, Rule(Rounding.V1, Product.ALL_F32), (None, features[:, :32], times, None, None))
    assert [choice.lanes for choice in layer.choices(1, Traits(80, 100))] == [8, 32]
    with pytest.raises(InputValueError, match="SVDF: on a GPU the input must be an activation"):
        pack(spec, Rule(Rounding.V1, Product.ALL_F32), (features, features, times, None, None))


@pytest.mark.parametrize(("profile", "dtype"), [("litert_ref", "int16"), ("tflm", "int8"), ("single", "int8")])
def test_sessions(launcher: HostLauncher, profile: str, dtype: str, seed: int) -> None:
    """Sessions, calls from the initial state and batches, each as on the CPU, step by step and as one graph."""
    for number in range(3):
        rng = np.random.default_rng([seed, number])
        content = peers.layer(rng, dtype=dtype)
        ours = Model(plan_program(read(content), Device("cuda"), profile, launcher))
        cpu = gpuq.load(content, device="cpu", numerics=profile)
        frames = rng.integers(-128, 128, (4, 3 * cpu.graph.tensors[0].shape[0], cpu.graph.tensors[0].shape[1]))
        frames = frames.astype(np.int8)
        session, wanted = ours.session(3), cpu.session(3)
        for invoke, frame in enumerate(frames):
            where = f"case {number}, invoke {invoke}, {profile}, seed {seed}"
            assert_equal_bits(session(frame), wanted(frame), where)
            assert_equal_bits(ours(frame), cpu(frame), f"from the start, {where}")
        session.reset()
        assert_equal_bits(session(frames[1]), cpu(frames[1]), f"after a reset, case {number}, seed {seed}")
        want = cpu.tensors(frames[0])
        for index, got in ours.tensors(frames[0]).items():
            assert_equal_bits(got, want[index], f"tensor {index}, case {number}, seed {seed}")


def add_svdf(net: Net, x: int, units: int, rank: int, memory: int) -> int:
    """An operator with a state of its own; the number of its output."""
    rows, in_c = net.shape(x)
    filters, quant = units * rank, Quant(0.01, 0, dtype="int16")
    spec = SvdfSpec(
        rows=rows,
        in_c=in_c,
        units=units,
        rank=rank,
        memory=memory,
        x_quant=net.of(x),
        feature_quant=Quant(0.02, 0),
        time_quant=Quant(0.001, 0, dtype="int16"),
        state_quant=quant,
        out_quant=net.of(x),
    )
    features = net.tensor((filters, in_c), spec.feature_quant, random_codes(net.rng, (filters, in_c), "int8"))
    times = net.tensor((filters, memory), spec.time_quant, net.rng.integers(-99, 99, (filters, memory)).astype("int16"))
    state = net.tensor(spec.output_shapes[1], quant)
    net.tensors[state] = replace(net.tensors[state], dtype=np.dtype("int16"), is_variable=True)
    out = net.add_node(spec, (x, features, times, state, -1), (rows, units), net.of(x))
    net.nodes[-1] = replace(net.nodes[-1], outputs=(out, state))
    return out


@pytest.mark.parametrize("fuse", [True, False])
def test_states_amid_other_operators(launcher: HostLauncher, fuse: bool, seed: int) -> None:
    """Two states among layers whose memory is used again; streams of a batch do not meet."""
    net = Net(np.random.default_rng(seed))
    x = net.tensor((2, 12), net.quant(0.05, 3))
    hidden = net.relu(net.dense(add_svdf(net, net.dense(x, 21), 6, 2, 5), 12))
    y = net.reshape(add_svdf(net, hidden, 8, 1, 40), 4, 4)
    graph = net.graph((x,), (y,))
    cpu = Model(plan_program(graph, Device("cpu"), "litert_ref"))
    ours = Model(plan_program(graph, Device("cuda"), "litert_ref", launcher, fuse=fuse))
    frames = random_codes(net.rng, (5, 6, 12), "int8")
    session, streams = ours.session(3), [cpu.session() for _ in range(3)]
    for invoke, frame in enumerate(frames):
        want = np.concatenate([stream(frame[2 * i : 2 * i + 2]) for i, stream in enumerate(streams)])
        assert_equal_bits(session(frame), want, f"invoke {invoke}, seed {seed}\n{ours.program}")
        assert_equal_bits(ours(frame), cpu(frame), f"from the start, invoke {invoke}, seed {seed}")
    assert not np.array_equal(want, cpu(frames[-1])), "state must matter"
