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

// exp(x) - 1 in float64, -41 <= x <= 41: see gpuq/ops/float32/exponential.py.
__device__ __forceinline__ double expm1_of(double x) {
  const double whole = rint(__dmul_rn(x, 0x1.71547652b82fep+0));
  const double rest =
      __dsub_rn(__dsub_rn(x, __dmul_rn(whole, 0x1.62e42feep-1)), __dmul_rn(whole, 0x1.a39ef35793c76p-33));
  // 1 / 13!, ..., 1 / 2!
  const double coefficients[12] = {0x1.6124613a86d09p-33, 0x1.1eed8eff8d898p-29, 0x1.ae64567f544e4p-26,
                                   0x1.27e4fb7789f5cp-22, 0x1.71de3a556c734p-19, 0x1.a01a01a01a01ap-16,
                                   0x1.a01a01a01a01ap-13, 0x1.6c16c16c16c17p-10, 0x1.1111111111111p-7,
                                   0x1.5555555555555p-5,  0x1.5555555555555p-3,  0x1.0p-1};
  double series = coefficients[0];
#pragma unroll
  for (int i = 1; i < 12; ++i) series = __dadd_rn(__dmul_rn(series, rest), coefficients[i]);
  const double part = __dadd_rn(rest, __dmul_rn(__dmul_rn(rest, rest), series));
  const int steps = static_cast<int>(whole);
  return __dadd_rn(ldexp(part, steps), __dsub_rn(ldexp(1.0, steps), 1.0));
}
