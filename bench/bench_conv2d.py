"""Convolutions and dense layers on a GPU: every kernel that can run a layer, checked, then timed, beside its peers.

    python -m bench.bench_conv2d [--layers GLOBS] [--batch 1 32 256] [--candidates all|best|COUNT] [--budget SECONDS]
                                 [--peers classes|all|none] [--microbench FILE] [--output FILE] [--resume] [--list]

For each layer of bench/layers.py, batch size and candidate of gpuq's own choice:

1. **Right first.** The output must equal gpuq's CPU plan (or reference(), where that is fast) in every byte; a batch is
   random repeats of a few different images. Every output is poisoned before. What is wrong is not timed.
2. **Then fast.** See bench/gpu.py: CUDA graphs, buffers of their own for each launch, cold inputs, weights as they are
   between images of a network. Median, p10 and p90; TOPS = 2 * MACs; GB/s = inputs, outputs and weights once;
   shares of the measured ceilings (microbench.py), and of the roof, which is the slower of the two. A candidate that is
   twice as slow as the best so far keeps its first, rough figure.

Peers (bench/peers.py) run in the same process. Layers come in the order of layers.py, so that a run that ends early
has the classes first; the JSON is written whole after each layer. `is_chosen_by_model` marks the candidate that gpuq
would take, `is_best` the fastest measured.

Exit status: 0; 1 if any output was wrong or a candidate failed; 2 without a GPU; 3 if the GPU was lost (run again with
--resume: the layer at fault is left out).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import peers as peer_module
from bench.bench_models import write_json
from bench.gpu import Gpu, launches_per_graph, machine, quantiles
from bench.layers import CONV, DENSE, Layer, Row, layers
from gpuq.cpu.plans import pack as cpu_pack
from gpuq.cuda.kernel import Kernel
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.plans import CudaPlan, layer_of
from gpuq.errors import GpuqError
from gpuq.ops import conv2d, depthwise_conv2d, fully_connected

REPOSITORY = Path(__file__).resolve().parent.parent
BATCHES = (1, 32, 256)
DIFFERENT_IMAGES = 4
SAMPLES, ROUGH_SAMPLES = 21, 3
FAR_BEHIND = 2.0
# Below, reference() is fast enough to be what outputs are compared with.
REFERENCE_MACS = 5_000_000
EXIT_WRONG, EXIT_NO_GPU, EXIT_LOST = 1, 2, 3


class Lost(Exception):
    """The GPU no longer answers; the message says in what."""


class Wrong(Exception):
    """A kernel's output is not the reference's."""


class LayerBench:
    """One layer: its constants, a few images, and what they must give.

    Args:
        dtype, numerics: of the layer; the profile decides the rule.
    """

    def __init__(self, gpu: Gpu, layer: Layer, dtype: str = "int8", numerics: str = "litert_ref") -> None:
        self.gpu, self.layer = gpu, layer
        spec, rule = layer.spec(dtype), layer.rule(dtype, numerics)
        weights, bias = layer.constants(dtype)
        self.packed = layer_of(spec, rule, [None, weights, bias])
        images = layer.images(DIFFERENT_IMAGES, dtype)
        self.images = gpu.upload(images)
        self.wanted = gpu.upload(expected(spec, rule, weights, bias, images))

    def choices(self, runs: int, count: int | None) -> Sequence[Any]:
        """gpuq's candidates for this batch, the one it would take first, at most `count` of them."""
        found = self.packed.choices(runs, self.gpu.launcher.traits)
        return found if count is None else found[:count]

    def prepare(self, wanted: Iterable[tuple[int, Any]]) -> None:
        """Compiles the kernels of these (runs, choice) together, which is faster than one by one."""
        kernels: dict[Kernel, None] = {}
        for runs, choice in wanted:
            kernels |= dict.fromkeys(kernels_of(self.layer, self.packed, runs, choice))
        self.gpu.launcher.prepare(list(kernels))

    def batch(self, runs: int) -> Batch:
        return Batch(self, runs)


class Batch:
    """One batch size of a layer: buffers, as many as are asked for, with the same random images in each."""

    def __init__(self, bench: LayerBench, runs: int) -> None:
        self.bench, self.runs = bench, runs
        gpu, layer = bench.gpu, bench.layer
        rng = np.random.default_rng(runs)
        # Every image has its place by chance, one of them in the first: a kernel that mixes images up shows.
        self.index = rng.integers(0, DIFFERENT_IMAGES, runs).astype(np.int32)
        self.x_bytes = runs * int(np.prod(layer.x_shape))
        self.y_bytes = runs * int(np.prod(layer.y_shape))
        first = gpu.empty(self.x_bytes)
        gpu.gather(bench.images, self.index, first)
        self.xs, self.ys = [first], [gpu.empty(self.y_bytes)]

    def buffers(self, count: int) -> None:
        """Makes sure that there are this many inputs and outputs."""
        gpu = self.bench.gpu
        whole = self.xs[0].reshape(1, -1)
        while len(self.xs) < count:
            self.xs.append(gpu.empty(self.x_bytes))
            gpu.gather(whole, np.zeros(1, np.int32), self.xs[-1])
            self.ys.append(gpu.empty(self.y_bytes))

    def measure(self, choice: Any, samples: int = SAMPLES, best: float = math.inf) -> dict[str, Any]:
        """Checks one candidate and times it.

        Args:
            best: seconds of the best one so far; of one that is far behind, the rough figure is enough.

        Raises:
            Wrong: an output differs.
        """
        bench, gpu, runs = self.bench, self.bench.gpu, self.runs
        plan = CudaPlan(bench.packed, gpu.launcher, choice)
        size = plan.workspace_bytes(runs)
        workspace = gpu.empty(max(16, size))
        stream = getattr(gpu, "stream", None)

        def launch(number: int) -> None:
            plan.launch([self.xs[number]], [self.ys[number]], workspace, stream)

        gpu.poison(self.ys[0], 0x5A)
        gpu.poison(workspace, 0xA5)
        launch(0)
        different = gpu.differences(self.ys[0], bench.wanted, self.index)
        if different:
            raise Wrong(f"{different} of {self.y_bytes} bytes differ from the reference")
        count = 2
        self.buffers(count)
        times = quantiles(gpu.seconds(launch, count, ROUGH_SAMPLES))
        rough = times["median_s"] > FAR_BEHIND * best
        if not rough:
            count = launches_per_graph(times["median_s"], self.x_bytes + self.y_bytes, gpu.memory_bytes)
            self.buffers(count)
            times = quantiles(gpu.seconds(launch, count, samples))
        # The launches that were timed, too, wrote what they had to.
        last = count - 1
        if gpu.differences(self.ys[last], bench.wanted, self.index):
            raise Wrong("the timed launches give other bytes than the first one")
        return {**times, "launches": count, "rough": rough, "workspace_bytes": size}


def kernels_of(layer: Layer, packed: Any, runs: int, choice: Any) -> list[Kernel]:
    """What one call launches."""
    x_shape, y_shape = ((1, 1, *shape)[-3:] for shape in (layer.x_shape, layer.y_shape))
    x, y = (ImageLayout.contiguous(runs, *shape) for shape in (x_shape, y_shape))
    return [launch.kernel for launch in packed.launches(choice, [x], y)]


def expected(spec: Any, rule: Any, weights: Any, bias: Any, images: Any) -> Any:
    """What gpuq says that these images give, (count, ...), by the way that is fast enough."""
    if spec.macs * len(images) <= REFERENCE_MACS:
        module = {"CONV_2D": conv2d, "DEPTHWISE_CONV_2D": depthwise_conv2d, "FULLY_CONNECTED": fully_connected}[spec.op]
        return module.reference(spec, rule, images, weights, bias)
    plan = cpu_pack(spec, rule, [None, weights, bias])
    y = np.empty((len(images), *spec.output_shape), spec.out_quant.dtype)
    plan.launch([images], [y], np.empty(plan.workspace_bytes(len(images)), np.uint8))
    return y


def figures(layer: Layer, runs: int, seconds: float, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Rates, and shares of the ceilings where those are known.

    Returns:
        tops, gbs; share_dp4a, share_hbm: of the ceilings; share_roof: the time that the nearer of the two leaves at
        least, as a part of this one.
    """
    operations, moved = 2 * layer.macs * runs, layer.bytes(runs)
    dp4a, hbm = ceilings.get("dp4a_tops"), ceilings.get("hbm_gbs")
    found: dict[str, Any] = {
        "macs": layer.macs * runs,
        "bytes": moved,
        "tops": operations / seconds / 1e12,
        "gbs": moved / seconds / 1e9,
        "share_dp4a": None,
        "share_hbm": None,
        "share_roof": None,
    }
    if dp4a and hbm:
        at_least = max(operations / (dp4a * 1e12), moved / (hbm * 1e9))
        found["share_dp4a"] = found["tops"] / dp4a
        found["share_hbm"] = found["gbs"] / hbm
        found["share_roof"] = at_least / seconds
    return found


class Run:
    """One run of the bench and its report.

    Args:
        count: candidates of each layer; None: all.
        peers: what measures a layer's peers, (row, runs) -> rows; None: none.
        deadline: by time.monotonic().
    """

    def __init__(
        self,
        gpu: Gpu,
        output: Path,
        *,
        about: dict[str, Any] | None = None,
        batches: Sequence[int] = BATCHES,
        count: int | None = None,
        dtype: str = "int8",
        numerics: str = "litert_ref",
        ceilings: dict[str, Any] | None = None,
        peers: Callable[[Row, int], list[dict[str, Any]]] | None = None,
        samples: int = SAMPLES,
        deadline: float = float("inf"),
    ) -> None:
        self.gpu, self.output, self.batches, self.count = gpu, output, tuple(batches), count
        self.dtype, self.numerics, self.samples, self.deadline = dtype, numerics, samples, deadline
        self.ceilings, self.peers = ceilings or {}, peers
        self.report: dict[str, Any] = {
            "machine": about or {},
            "ceilings": self.ceilings,
            "dtype": dtype,
            "numerics": numerics,
            "batches": list(self.batches),
            "complete": False,
            "layers": {},
            "results": [],
            "peers": [],
            "problems": [],
        }

    def resume(self) -> None:
        """Goes on with the report that is there, if it is one; its layers are not measured again."""
        try:
            before = json.loads(self.output.read_text())
            lists = {name: list(before[name]) for name in ("results", "peers", "problems")}
            found = dict(before["layers"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        self.report |= {**lists, "layers": found}

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def problem(self, row: Row, **what: Any) -> None:
        self.report["problems"].append({"layer": row.name, **what})
        print(f"  ! {row.name} {' '.join(f'{key} {value}' for key, value in what.items())}", flush=True)

    def all(self, rows: Iterable[Row]) -> int:
        """Measures these layers until the deadline.

        Returns:
            The exit status.
        """
        status = 0
        self.report["complete"] = False
        try:
            for row in rows:
                if row.name in self.report["layers"]:
                    continue
                if self.late:
                    break
                self.layer(row)
                self.write()
            else:
                self.report["complete"] = True
        except Lost as error:
            self.report["problems"].append({"layer": row.name, "lost": str(error)})
            print(f"  ! the GPU was lost: {error}", flush=True)
            status = EXIT_LOST
        self.write()
        if status == 0 and any("unsupported" not in each for each in self.report["problems"]):
            status = EXIT_WRONG
        return status

    def write(self) -> None:
        write_json(self.output, self.report)

    def layer(self, row: Row) -> None:
        """All batches of one layer."""
        layer = row.layer
        # Noted before anything runs: a layer that takes the GPU with it is not tried again.
        self.report["layers"][row.name] = {
            "kind": layer.kind,
            "classes": list(row.classes),
            "networks": dict(row.networks),
            "macs": layer.macs,
            "weight_bytes": layer.weight_bytes,
            "padded": layer.padded.name,
        }
        self.write()
        try:
            bench = LayerBench(self.gpu, layer, self.dtype, self.numerics)
            wanted = [(runs, choice) for runs in self.batches for choice in bench.choices(runs, self.count)]
        except GpuqError as error:
            self.problem(row, unsupported=str(error))
            return
        # What does not compile shows again where its candidate runs.
        with contextlib.suppress(Exception):
            bench.prepare(wanted)
        for runs in self.batches:
            if self.late:
                return
            rows = self._batch(row, bench, runs)
            if self.peers and not self.late:
                found = self.peers(row, runs)
                self.report["peers"] += found
                rows += found
            print(summary(row, runs, rows), flush=True)
        self.gpu.release()

    def _batch(self, row: Row, bench: LayerBench, runs: int) -> list[dict[str, Any]]:
        batch = self._guarded(row, lambda: bench.batch(runs), n=runs)
        rows: list[dict[str, Any]] = []
        for rank, choice in enumerate(bench.choices(runs, self.count) if batch else ()):
            if self.late and rows:
                break
            best = min((each["median_s"] for each in rows), default=math.inf)
            times = self._guarded(
                row,
                lambda choice=choice, best=best: batch.measure(choice, self.samples, best),
                n=runs,
                choice=choice.name,
            )
            if times is None:
                continue
            rows.append(
                {
                    "layer": row.name,
                    "n": runs,
                    "choice": choice.name,
                    "rank": rank,
                    "is_chosen_by_model": rank == 0,
                    "is_best": False,
                    **times,
                    **figures(bench.layer, runs, times["median_s"], self.ceilings),
                }
            )
        if rows:
            min(rows, key=lambda each: each["median_s"])["is_best"] = True
        self.report["results"] += rows
        return rows

    def _guarded(self, row: Row, work: Callable[[], Any], **what: Any) -> Any:
        """The work's result, or None and a problem noted.

        Raises:
            Lost: nothing runs any more.
        """
        try:
            return work()
        except Wrong as error:
            self.problem(row, **what, wrong=str(error))
        except Exception as error:
            self.problem(row, **what, failed=f"{type(error).__name__}: {error}")
            try:
                self.gpu.synchronize()
            except Exception as second:
                raise Lost(f"{row.name} {what}: {error}; {second}") from second
        return None


def summary(row: Row, runs: int, rows: list[dict[str, Any]]) -> str:
    """One line: the fastest of ours, how far gpuq's choice is from it, and the peers' times beside it."""
    ours = [each for each in rows if "choice" in each]
    text = f"{row.name:<38} N={runs:<4}"
    if not ours:
        return f"{text} nothing measured"
    best = min(ours, key=lambda each: each["median_s"])
    text += f"{1e6 * best['median_s']:>9.1f} us {best['tops']:>6.1f} TOPS {best['gbs']:>6.0f} GB/s"
    if best["share_roof"] is not None:
        text += f" {best['share_roof']:>4.0%}"
    text += f" {best['choice'].replace('conv2d_', '')}"
    chosen = next((each for each in ours if each["is_chosen_by_model"]), None)
    if chosen is not None and chosen is not best:
        text += f" (model: {chosen['choice'].replace('conv2d_', '')} x{chosen['median_s'] / best['median_s']:.2f})"
    for each in rows:
        if "peer" in each and "median_s" in each:
            text += f" | {each['peer']} x{each['median_s'] / best['median_s']:.2f}"
    return text


def table(rows: Sequence[Row]) -> str:
    """What --list prints."""
    lines = []
    for row in rows:
        where = ", ".join((*row.classes, *(f"{name} x{count}" for name, count in row.networks)))
        intensity = 2 * row.layer.macs * 256 / row.layer.bytes(256)
        lines.append(f"{row.name:<38} {row.layer.macs / 1e6:>9.3f} M MACs {intensity:>7.1f} ops/byte  {where}")
    total = len(rows)
    kinds = {kind: sum(row.layer.kind == kind for row in rows) for kind in (CONV, "depthwise_conv2d", DENSE)}
    return "\n".join([*lines, f"{total} shapes: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"])


def candidate_count(text: str) -> int | None:
    """all, best or a number."""
    if text == "all":
        return None
    count = 1 if text == "best" else int(text)
    if count < 1:
        raise ValueError(text)
    return count


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="*", metavar="GLOBS", help="names, classes, networks; commas between")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--candidates", type=candidate_count, default=None, help="all, best, or how many")
    parser.add_argument("--dtype", choices=("int8", "uint8"), default="int8")
    parser.add_argument("--numerics", default="litert_ref")
    parser.add_argument("--peers", choices=("classes", "all", "none"), default="classes")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--microbench", type=Path, default=None, help="default: microbench.json beside the output")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "bench" / "results" / "conv2d_cuda.json")
    parser.add_argument("--resume", action="store_true", help="leave out the layers that the output has")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the layers and end; needs no GPU")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    rows = layers(arguments.layers)
    if not rows:
        parser.error(f"no layer, class or network is called {arguments.layers!r}")
    if arguments.list:
        print(table(rows))
        return 0
    from bench.gpu import CupyGpu

    try:
        gpu = CupyGpu(arguments.device)
    except GpuqError as error:
        print(f"bench_conv2d: {error}", file=sys.stderr)
        return EXIT_NO_GPU
    measured = peer_module.Peers(gpu.l2_bytes, arguments.samples) if arguments.peers != "none" else None

    def peers(row: Row, runs: int) -> list[dict[str, Any]]:
        if measured is None or (arguments.peers == "classes" and not row.classes):
            return []
        return measured.rows(row.layer, runs)

    run = Run(
        gpu,
        arguments.output,
        about=machine(gpu),
        batches=arguments.batch,
        count=arguments.candidates,
        dtype=arguments.dtype,
        numerics=arguments.numerics,
        ceilings=read_ceilings(arguments.microbench or arguments.output.with_name("microbench.json")),
        peers=peers,
        samples=arguments.samples,
        deadline=start + arguments.budget,
    )
    if arguments.resume:
        run.resume()
    status = run.all(rows)
    print(f"{len(run.report['layers'])} of {len(rows)} layers; wrote {arguments.output}")
    return status


def read_ceilings(path: Path) -> dict[str, Any]:
    """Of microbench.py's JSON; nothing where there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())["ceilings"]
    except (OSError, ValueError, KeyError):
        return {}
    return found


if __name__ == "__main__":
    sys.exit(main())
