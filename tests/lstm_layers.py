"""Builds .tflite files of one random UNIDIRECTIONAL_SEQUENCE_LSTM, of int8 or float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .networks import Network
from .peers.one_operator import TensorDef

F = np.float32


@dataclass(frozen=True)
class Variant:
    """What a layer has."""

    cifg: bool = False
    peepholes: bool = False
    projection: bool = False
    norms: bool = False
    time_major: bool = False

    @property
    def is_extended(self) -> bool:
        return self.peepholes or self.projection or self.norms


@dataclass(frozen=True)
class Sizes:
    """Of one run."""

    batch: int
    steps: int
    in_c: int
    units: int
    out_c: int


def random_sizes(rng: np.random.Generator, variant: Variant, most: int = 40, *, narrows: bool = False) -> Sizes:
    """narrows: outputs are not more than cells."""
    batch, steps = (int(n) for n in rng.integers(1, (4, 6)))
    in_c, units = (int(n) for n in rng.integers(1, most, 2))
    # Peepholes see as many cells as there are outputs.
    out_c = int(rng.integers(1, units + 1 if variant.peepholes or narrows else most)) if variant.projection else units
    return Sizes(batch, steps, in_c, units, out_c)


def lstm_layer(
    rng: np.random.Generator,
    variant: Variant,
    sizes: Sizes | None = None,
    *,
    activation: int = 4,
    inputs: int = 24,
    alike: bool = False,
) -> bytes:
    """Scales such that gates and cells move through all of their range, and a hidden zero point that counts.

    Args:
        activation, inputs: what the operator says is fused; how many inputs it names, 20 or 24.
        alike: all cells have nearly the same input weights, which makes the runtimes' variances negative.
    """
    sizes = sizes or random_sizes(rng, variant)
    batch, steps, in_c, units, out_c = sizes.batch, sizes.steps, sizes.in_c, sizes.units, sizes.out_c
    network = Network()
    zero_points = rng.integers(-128, 128, 3)
    x_scale, out_scale = (float(np.float32(rng.uniform(0.5, 2) * size)) for size in (0.02, 0.008))
    cell_scale = 2.0 ** int(rng.integers(-15, -8))
    outer = (steps, batch) if variant.time_major else (batch, steps)
    x = network.tensor(TensorDef((*outer, in_c), np.int8, x_scale, int(zero_points[0]), name="x"))

    def scale(low: float, high: float, size: float) -> float:
        return float(np.float32(rng.uniform(low, high) * size))

    def weights(rows: int, columns: int, lowest: int = -127) -> int:
        # Sums of as many products stay in the gates' range.
        size = 0.02 * min(1.0, 4 / columns**0.5) / (1 if lowest < 0 else 25)
        codes = rng.integers(lowest, 128, (rows, columns)).astype(np.int8)
        return network.tensor(TensorDef(codes.shape, np.int8, scale(0.2, 3, size), 0, data=codes))

    def numbers(count: int, size: float) -> int:
        codes = rng.integers(-32767, 32768, count).astype(np.int16)
        return network.tensor(TensorDef(codes.shape, np.int16, scale(0.2, 2, size), 0, data=codes))

    def bias(count: int, of: float, magnitude: int) -> int:
        codes = rng.integers(-magnitude, magnitude, count).astype(np.int32)
        return network.tensor(TensorDef((count,), np.int32, of, 0, data=codes))

    def scale_of(number: int) -> float:
        return float(network._definitions[number].scale)

    absent = [-1] if variant.cifg else []
    w = absent + [weights(units, in_c, 120 if alike else -127) for _ in range(4 - len(absent))]
    r = absent + [weights(units, out_c) for _ in range(4 - len(absent))]
    gate_scale = scale(0.5, 2, 2.0**-12) if variant.norms and rng.random() < 0.7 else 2.0**-12

    def peephole() -> int:
        if rng.random() < 0.5:
            return numbers(units, 1 / 32767)
        # A factor of 1/2 to 1/8, whose ties vectors round up and the rest away from zero.
        shift = int(rng.integers(1, 4))
        codes = rng.integers(-4 << shift, 5 << shift, units).astype(np.int16)
        of = float(np.float32(gate_scale)) / cell_scale / 2**shift
        return network.tensor(TensorDef(codes.shape, np.int16, of, 0, data=codes))

    peepholes = absent + [peephole() for _ in range(3 - len(absent))] if variant.peepholes else [-1] * 3
    norms = absent + [numbers(units, 1 / 32767) for _ in range(4 - len(absent))] if variant.norms else [-1] * 4
    biases = list(absent)
    for weighted, norm in list(zip(w, norms, strict=True))[len(absent) :]:
        if variant.norms:
            biases.append(bias(units, scale_of(norm) / 1024, 1 << 24))
        else:
            biases.append(bias(units, float(np.float32(x_scale) * np.float32(scale_of(weighted))), 1 << 12))
    hidden_scale = float(np.float32(out_scale * rng.choice([1, 1.3])))
    projection, projection_bias = -1, -1
    if variant.projection:
        projection = weights(out_c, units)
        if rng.random() < 0.5:
            projection_bias = bias(out_c, hidden_scale * scale_of(projection), 1 << 10)
    hidden = TensorDef((batch, out_c), np.int8, out_scale, int(zero_points[1]), name="output_state")
    cell = TensorDef((batch, units), np.int16, cell_scale, 0, name="cell_state")
    states = [network.tensor(each, is_variable=True) for each in (hidden, cell)]
    out = TensorDef((*outer, out_c), np.int8, out_scale, int(zero_points[1]), name="y")
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction, options.timeMajor = activation, variant.time_major
    # A bound below one step is none in LiteRT, and 0 in TFLite Micro.
    options.cellClip = float(rng.choice([0.0, 0.0, 1.5, cell_scale / 3]))
    options.projClip = float(rng.choice([0.0, 0.0, 0.5, out_scale / 3]))
    operands = [x, *w, *r, *peepholes, *biases, projection, projection_bias, *states, *norms]
    y = network.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", operands[:inputs], out, options, version=3)
    network.graph.operators[-1].intermediates = _intermediates(network, gate_scale, hidden_scale, int(zero_points[2]))
    return network.build([x], [y])


def _intermediates(network: Network, gate_scale: float, hidden_scale: float, hidden_zero_point: int) -> Sequence[int]:
    gates = [
        network.tensor(
            TensorDef((0,), np.int16, float(np.float32(gate_scale * factor)), 0, name=f"intermediate_{gate}")
        )
        for gate, factor in enumerate((1, 1.1, 0.9, 1.2) if gate_scale != 2.0**-12 else (1, 1, 1, 1))
    ]
    hidden = TensorDef((0,), np.int8, hidden_scale, hidden_zero_point, name="intermediate_hidden")
    return [*gates, network.tensor(hidden)]


def float_lstm_layer(
    rng: np.random.Generator, variant: Variant, sizes: Sizes | None = None, *, activation: int = 4, weights: type = F
) -> bytes:
    """Numbers of about 1 in gates and cells.

    Args:
        activation: what the operator says is fused.
        weights: their dtype.
    """
    sizes = sizes or random_sizes(rng, variant, narrows=True)
    batch, steps, in_c, units, out_c = sizes.batch, sizes.steps, sizes.in_c, sizes.units, sizes.out_c
    network = Network()
    outer = (steps, batch) if variant.time_major else (batch, steps)
    x = network.tensor(TensorDef((*outer, in_c), F, name="x"))

    def numbers(*shape: int, kind: type = F) -> int:
        values = rng.normal(size=shape) / shape[-1] ** (0.5 * (len(shape) == 2))
        if kind is F:
            return network.tensor(TensorDef(shape, F, data=values.astype(F)))
        return network.tensor(TensorDef(shape, kind, 0.01, 0, data=np.round(values * 100).astype(kind)))

    absent = [-1] if variant.cifg else []
    gates = range(4 - len(absent))
    w = absent + [numbers(units, in_c, kind=weights) for _ in gates]
    r = absent + [numbers(units, out_c, kind=weights) for _ in gates]
    peepholes = absent + [numbers(units) for _ in gates[1:]] if variant.peepholes else [-1] * 3
    norms = absent + [numbers(units) for _ in gates] if variant.norms else [-1] * 4
    biases = absent + [numbers(units) for _ in gates]
    projection = numbers(out_c, units) if variant.projection else -1
    projection_bias = numbers(out_c) if variant.projection and rng.random() < 0.5 else -1
    states = [
        network.tensor(TensorDef((batch, columns), F, name=name), is_variable=True)
        for name, columns in (("output_state", out_c), ("cell_state", units))
    ]
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction, options.timeMajor = activation, variant.time_major
    options.cellClip, options.projClip = (float(rng.choice([0.0, 0.7])) for _ in range(2))
    operands = [x, *w, *r, *peepholes, *biases, projection, projection_bias, *states, *norms]
    out = TensorDef((*outer, out_c), F, name="y")
    y = network.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, out, options, version=3)
    return network.build([x], [y])
