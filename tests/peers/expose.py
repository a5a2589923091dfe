"""Rewrites a model so that it gives out every tensor that an operator computes.

A delegate keeps what lies inside its partitions to itself. An output of the graph leaves the partition, whose operators
and kernels stay the same: the last operator that two partitions shared is no longer fused, but nothing is computed
otherwise (XNNPACK's fusions move clamps and borders, not roundings).
"""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .one_operator import _Buffer, default_signature
from .runtimes import computed_tensors, read_model


def expose(content: bytes) -> tuple[bytes, list[int]]:
    """(the model with all computed tensors as its outputs, their indices in the order of the outputs)."""
    model = read_model(content)
    (graph,) = model.subgraphs
    indices = computed_tensors(content)
    graph.outputs = np.array(indices, np.int32)
    model.signatureDefs = [default_signature(graph)]
    model.buffers = [_aligned(buffer) for buffer in model.buffers]
    builder = flatbuffers.Builder(len(content) + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output()), indices


def _aligned(buffer: schema.BufferT) -> schema.BufferT:
    """Runtimes read constants in place; the generated code forgets their alignment."""
    if buffer.data is None or len(buffer.data) == 0:
        return schema.BufferT()
    copy = _Buffer()
    copy.data = np.asarray(buffer.data, np.uint8)
    return copy
