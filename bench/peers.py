"""What else could run a layer on the same GPU, timed as ours is: CUDA graphs, buffers of their own, cold inputs.

| peer        | what it computes                                                                                  |
|-------------|---------------------------------------------------------------------------------------------------|
| torch_bf16  | PyTorch conv2d or linear in bfloat16, channels last: what a user would do otherwise; other bits     |
| int_mm      | torch._int_mm, int8 to int32 on tensor cores, for 1x1 and dense layers; no requantization          |
| cudnn_int8  | cuDNN's int8 convolution to int32 through its frontend; no zero points, no requantization           |

Each of them does less than an exact int8 layer: no zero points, no exact rounding, and sums of four bytes an output.
A peer that is not installed, or that refuses a layer, gives a row with its reason under "unavailable".
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from bench.gpu import FLUSH_FACTOR, launches_per_graph, quantiles
from bench.layers import CONV, DENSE, DEPTHWISE, Layer


class Unavailable(Exception):
    """Why a peer does not run a layer."""


class Peers:
    """The peers of one process; they are imported when the first layer asks for them.

    Args:
        l2_bytes: of the GPU's L2 cache.
        samples: timed replays of a graph.
    """

    def __init__(self, l2_bytes: int, samples: int) -> None:
        self.l2_bytes, self.samples = l2_bytes, samples
        self._torch: Any = None
        self._cudnn: Any = None
        self._handle: Any = None
        self._flush: Any = None
        self._broken: dict[str, str] = {}

    def rows(self, layer: Layer, runs: int) -> list[dict[str, Any]]:
        """One row per peer that could run such a layer."""
        found = []
        peers: list[tuple[str, Callable[[Layer, int], tuple[Callable[[int], Any], int]]]] = [
            ("torch_bf16", self.torch_bf16)
        ]
        if layer.kind == DENSE or (layer.kind == CONV and layer.kernel_h * layer.kernel_w * layer.stride == 1):
            peers.append(("int_mm", self.int_mm))
        if layer.kind == CONV:
            peers.append(("cudnn_int8", self.cudnn_int8))
        for name, prepare in peers:
            row: dict[str, Any] = {"layer": layer.name, "n": runs, "peer": name}
            try:
                if name in self._broken:
                    raise Unavailable(self._broken[name])
                row |= self._measure(prepare, layer, runs)
            except Exception as error:
                text = " ".join(str(error).split())[:300]
                row["unavailable"] = text if isinstance(error, Unavailable) else f"{type(error).__name__}: {text}"
                if isinstance(error, ImportError):
                    self._broken[name] = row["unavailable"]
            found.append(row)
        return found

    def _measure(self, prepare: Callable[..., Any], layer: Layer, runs: int) -> dict[str, Any]:
        torch = self._import_torch()
        try:
            call, each_bytes = prepare(layer, runs, 2)
            rough = sorted(self._seconds(call, 2, 3))[1]
            memory = torch.cuda.mem_get_info()[0]
            count = launches_per_graph(rough, each_bytes, memory)
            call, _ = prepare(layer, runs, count)
            times = quantiles(self._seconds(call, count, self.samples))
            return {**times, "launches": count, "tops": 2 * layer.macs * runs / times["median_s"] / 1e12}
        finally:
            call = None
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _import_torch(self) -> Any:
        if self._torch is None:
            torch = importlib.import_module("torch")
            if not torch.cuda.is_available():
                raise Unavailable("torch finds no GPU")
            torch.backends.cudnn.benchmark = True
            self._torch = torch
        return self._torch

    def _seconds(self, call: Callable[[int], Any], count: int, samples: int) -> list[float]:
        torch = self._torch
        if self._flush is None:
            self._flush = torch.rand(FLUSH_FACTOR * self.l2_bytes // 4, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for number in range(min(2, count)):
                call(number)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = [call(number) for number in range(count)]  # outputs of their own, as ours have
        graph.replay()
        torch.cuda.synchronize()
        found = []
        for _ in range(samples):
            self._flush.sum()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / 1e3 / count)
        del kept
        return found

    # ---- peers: (call, bytes of one call's buffers)

    def torch_bf16(self, layer: Layer, runs: int, count: int) -> tuple[Callable[[int], Any], int]:
        torch = self._torch
        functional = torch.nn.functional
        options = {"device": "cuda", "dtype": torch.bfloat16}
        bias = torch.randn(layer.out_c, **options)
        if layer.kind == DENSE:
            weights = torch.randn(layer.out_c, layer.in_c, **options)
            rows = [torch.randn(runs, layer.in_c, **options) for _ in range(count)]
            return lambda number: functional.linear(rows[number], weights, bias), 2 * layer.bytes(runs)
        window = layer.window
        pads = (window.pad_left, window.pad_right, window.pad_top, window.pad_bottom)
        height, width, padding = layer.in_h, layer.in_w, (window.pad_top, window.pad_left)
        if pads[0] != pads[1] or pads[2] != pads[3]:
            # conv2d has symmetric pads only: the image is padded beforehand, which is not timed.
            height, width, padding = height + pads[2] + pads[3], width + pads[0] + pads[1], (0, 0)
        groups = layer.in_c if layer.kind == DEPTHWISE else layer.groups
        last = torch.channels_last
        weights = torch.randn(layer.out_c, layer.in_c // groups, layer.kernel_h, layer.kernel_w, **options)
        weights = weights.contiguous(memory_format=last)
        images = [
            torch.randn(runs, layer.in_c, height, width, **options).contiguous(memory_format=last) for _ in range(count)
        ]

        def call(number: int) -> Any:
            return functional.conv2d(images[number], weights, bias, layer.stride, padding, layer.dilation, groups)

        return call, 2 * layer.bytes(runs)

    def int_mm(self, layer: Layer, runs: int, count: int) -> tuple[Callable[[int], Any], int]:
        torch = self._torch
        if layer.groups > 1:
            raise Unavailable("groups")
        pixels = runs * layer.in_h * layer.in_w
        rows = [torch.randint(-128, 128, (pixels, layer.in_c), device="cuda", dtype=torch.int8) for _ in range(count)]
        weights = torch.randint(-127, 128, (layer.out_c, layer.in_c), device="cuda", dtype=torch.int8).t()
        return lambda number: torch._int_mm(rows[number], weights), pixels * (layer.in_c + 4 * layer.out_c)

    def cudnn_int8(self, layer: Layer, runs: int, count: int) -> tuple[Callable[[int], Any], int]:
        if layer.groups > 1 or layer.in_c % 4 or layer.out_c % 4:
            raise Unavailable("cuDNN's int8 convolution takes channels in multiples of 4, no groups")
        torch = self._torch
        cudnn = self._cudnn = self._cudnn or importlib.import_module("cudnn")
        if self._handle is None:
            self._handle = cudnn.create_handle()
        handle, types, window = self._handle, cudnn.data_type, layer.window
        last = torch.channels_last

        def codes(*shape: int) -> Any:
            found = torch.randint(-127, 128, shape, device="cuda", dtype=torch.int8)
            return found.contiguous(memory_format=last)

        out_h, out_w, out_c = layer.y_shape
        images = [codes(runs, layer.in_c, layer.in_h, layer.in_w) for _ in range(count)]
        weights = codes(layer.out_c, layer.in_c, layer.kernel_h, layer.kernel_w)
        outs = [
            torch.empty(runs, out_c, out_h, out_w, device="cuda", dtype=torch.int32).contiguous(memory_format=last)
            for _ in range(count)
        ]
        graph = cudnn.pygraph(
            handle=handle,
            io_data_type=types.INT8,
            intermediate_data_type=types.INT32,
            compute_data_type=types.INT32,
        )

        def strides(channels: int, height: int, width: int) -> list[int]:
            return [height * width * channels, 1, width * channels, channels]

        x_shape = (runs, layer.in_c, layer.in_h, layer.in_w)
        w_shape = (layer.out_c, layer.in_c, layer.kernel_h, layer.kernel_w)
        x = graph.tensor(name="x", dim=list(x_shape), stride=strides(*x_shape[1:]), data_type=types.INT8)
        w = graph.tensor(name="w", dim=list(w_shape), stride=strides(*w_shape[1:]), data_type=types.INT8)
        sums = graph.conv_fprop(
            image=x,
            weight=w,
            pre_padding=[window.pad_top, window.pad_left],
            post_padding=[window.pad_bottom, window.pad_right],
            stride=[layer.stride, layer.stride],
            dilation=[layer.dilation, layer.dilation],
            compute_data_type=types.INT32,
        )
        # The engines for int8 are found for a convolution that something follows.
        y = graph.identity(name="y", input=sums)
        y.set_output(True).set_data_type(types.INT32)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.check_support()
        graph.build_plans()
        workspace = torch.empty(max(16, graph.get_workspace_size()), device="cuda", dtype=torch.uint8)

        def call(number: int) -> Any:
            cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
            graph.execute({x: images[number], w: weights, y: outs[number]}, workspace, handle=handle)
            return outs[number]

        return call, layer.bytes(runs) + 3 * runs * out_h * out_w * out_c
