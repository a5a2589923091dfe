"""Operators that run in the kernel of the convolution before them: ADD or SUB of a residual, functions of one code.

A chain of any length has at most one sum. Functions of one code before it become part of the sum's values, those after
it one table, all composed here: the kernel does the same work for a chain of ten as for one of three. See fused_codes()
in kernels_cuda/epilogue.cuh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from gpuq import numerics
from gpuq.cuda import binary, elementwise
from gpuq.cuda.epilogue import Fusion
from gpuq.numerics import V1U_BLOCKS, Rule, uniform
from gpuq.ops.add import AddSpec, one_rule
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.spec import Spec
from gpuq.ops.sub import SubSpec

# Words of the packed factor; see kernels_cuda/epilogue.cuh.
_FACTOR_WORDS = 4


@dataclass(frozen=True)
class Follower:
    """An operator behind a convolution.

    Attributes:
        operand: which of its inputs is the chain's; the other one of a sum is the residual.
    """

    spec: Spec
    rule: Rule
    operand: int = 0


def is_sum(spec: Spec) -> TypeGuard[BinarySpec]:
    """Whether an operator adds a residual of the output's own shape."""
    return isinstance(spec, AddSpec | SubSpec) and spec.a_shape == spec.b_shape


def can_follow(spec: Spec, rule: Rule) -> bool:
    """Whether an operator can run in the kernel before it: one rule for all its elements."""
    if is_sum(spec):
        return one_rule(spec, rule.rounding) is not None
    return elementwise.is_map(spec) and uniform(rule.rounding, math.prod(spec.output_shape)) not in V1U_BLOCKS


def pack(followers: Sequence[Follower]) -> Fusion:
    """Packs a chain, in order of execution: operators that can follow, of one dtype, at most one of them a sum."""
    dtype = followers[0].spec.activation_dtype
    identity = np.arange(256)
    codes = identity
    defines: list[tuple[str, int | str]] = []
    header = np.zeros(8 + _FACTOR_WORDS, np.int32)
    tables = []
    has_residual = False
    for follower in followers:
        spec = follower.spec
        if not is_sum(spec):
            codes = elementwise.pack_map(spec, follower.rule).table.view(np.uint8)[codes].astype(np.int64)
            continue
        rounding = one_rule(spec, follower.rule.rounding) or follower.rule.rounding
        layer = binary.pack_sum_or_product(spec, replace(follower.rule, rounding=rounding))
        # By the chain's first code, as the convolution gives it.
        values = (layer.values[follower.operand][codes], layer.values[1 - follower.operand])
        lines = [binary.affine(each, dtype) for each in values]
        for number, (line, each) in enumerate(zip(lines, values, strict=True)):
            header[2 * number : 2 * number + 2] = line or (0, 0)
            if line is None:
                tables.append(each)
        act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, layer.bounds)
        header[4:7] = spec.out_quant.scalar_zero_point(), act_min, act_max
        factor = np.frombuffer(layer.factors.tobytes(), np.int32)
        header[8 : 8 + factor.size] = factor
        defines += [
            ("FUSED_SUM", 1),
            ("SUM_RULE", layer.rule),
            ("SUM_CLAMP", int((act_min, act_max) != (spec.out_quant.qmin, spec.out_quant.qmax))),
            ("SUM_A_TABLE", int(lines[0] is None)),
            ("SUM_B_TABLE", int(lines[1] is None)),
        ]
        codes, has_residual = identity, True
    if not np.array_equal(codes, identity):
        defines.append(("FUSED_MAP", 1))
        tables.append(codes.astype(np.uint8).view(np.int32))
    return Fusion(tuple(defines), np.concatenate([header, *tables]).astype(np.int32), has_residual)
