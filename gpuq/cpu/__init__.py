"""The CPU path: fast exact NumPy plans, the fallback without a GPU.

BLAS runs the convolutions. Floating point is exact on integers while every partial sum stays below 2^24 (float32)
or 2^53 (float64); each plan proves at pack time that its sums do, and takes a slower exact path where they do not.
"""

from gpuq.cpu.plans import pack

__all__ = ["pack"]
