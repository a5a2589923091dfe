"""How far apart the numerics profiles are on real models, computed by gpuq on the CPU: the table of docs/numerics.md.

    python bench/profile_distance.py FOLDER [--inputs 4]

FOLDER holds .tflite files, at any depth. Every profile that runs a model is compared with litert_ref (or, where that
does not run it, with tflm) on random smooth images: the share of the values of all computed tensors that differ, the
largest difference among them and among the outputs, both in codes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import gpuq
from gpuq.profiles import PROFILES


def smooth_inputs(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> np.ndarray:
    """A random walk along every axis, stretched over all codes: nearer to what networks see than noise."""
    walk = np.random.default_rng(seed).normal(size=shape)
    for axis in range(walk.ndim):
        walk = np.cumsum(walk, axis=axis)
    walk = (walk - walk.min()) / max(float(np.ptp(walk)), 1e-9)
    if dtype.kind == "f":
        return walk.astype(dtype)
    info = np.iinfo(dtype)
    return np.rint(walk * (int(info.max) - int(info.min)) + int(info.min)).astype(dtype)


def load(path: Path, numerics: str) -> gpuq.Model | None:
    try:
        return gpuq.load(path, numerics=numerics, device="cpu")
    except gpuq.GpuqError:
        return None


def distance(path: Path, base: str, other: str, inputs: int) -> str:
    """One row of the table."""
    models = [load(path, name) for name in (base, other)]
    if models[0] is None or models[1] is None:
        return f"| {path.stem} | {other}, {base} | refused | | | |"
    graph = models[0].graph
    values = differing = 0
    largest = largest_output = 0
    for seed in range(inputs):
        given = [graph.tensors[index] for index in graph.inputs]
        x = [smooth_inputs(tensor.shape, tensor.dtype, seed) for tensor in given]
        tensors = [model.tensors(*x) for model in models]
        for index, want in tensors[0].items():
            if want.dtype.kind == "f":
                continue
            gap = np.abs(tensors[1][index].astype(np.int64) - want.astype(np.int64))
            values, differing = values + gap.size, differing + int(np.count_nonzero(gap))
            largest = max(largest, int(gap.max()))
            if index in graph.outputs:
                largest_output = max(largest_output, int(gap.max()))
    if not values:
        return f"| {path.stem} | {other}, {base} | float32 alone | | | |"
    share = f"{100 * differing / values:.3f} %"
    return f"| {path.stem} | {other}, {base} | {share} | {largest} | {largest_output} | {values} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=int, default=4)
    arguments = parser.parse_args()
    print("| model | profiles | values that differ | largest difference | largest of an output | values |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in sorted(arguments.folder.rglob("*.tflite")):
        base = next((name for name in PROFILES if load(path, name) is not None), None)
        if base is not None:
            for other in PROFILES:
                if other != base:
                    print(distance(path, base, other, arguments.inputs), flush=True)


if __name__ == "__main__":
    main()
