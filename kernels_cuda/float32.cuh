// What operators on float32 share. Each step is rounded by itself and sums run in the order of the runtimes'
// reference kernels: the twins of gpuq/ops/float32/.

#pragma once

#include "portable.cuh"

// sum + a * b, two roundings.
__device__ __forceinline__ float plus_product(float sum, float a, float b) {
  return __fadd_rn(sum, __fmul_rn(a, b));
}

// Within the activation's bounds; a number that is not one stays what it is.
__device__ __forceinline__ float clamped(float value, float low, float high) {
  return value <= low ? low : value >= high ? high : value;
}

// expf as glibc computes it: see gpuq/ops/float32/exponential.py. parts: 2^(i / 32), i < 32.
__device__ __forceinline__ float expf_of(float x, const double* parts) {
  const double scaled =
      fmin(fmax(__dmul_rn(static_cast<double>(x), 0x1.71547652b82fep+0 * 32), -32000.0), 32000.0);
  const double whole = rint(scaled);
  const double rest = __dsub_rn(scaled, whole);
  const double cubic = 0x1.c6af84b912394p-5 / 32 / 32 / 32;
  const double square = 0x1.ebfce50fac4f3p-3 / 32 / 32;
  const double linear = 0x1.62e42ff0c52d6p-1 / 32;
  const double polynomial =
      __dadd_rn(__dmul_rn(__dadd_rn(__dmul_rn(cubic, rest), square), __dmul_rn(rest, rest)),
                __dadd_rn(__dmul_rn(linear, rest), 1.0));
  const int steps = static_cast<int>(whole);
  return __double2float_rn(ldexp(__dmul_rn(polynomial, parts[steps & 31]), steps >> 5));
}
