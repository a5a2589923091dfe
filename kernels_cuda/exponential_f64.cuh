// exp of float64: the twin of gpuq/ops/float32/exponential_f64.py, step by step.

#pragma once

#include "portable.cuh"

#define EXPONENTIAL_PARTS 128

// parts: 2^(i / 128) and what it lacks, relatively. NaN stays.
__device__ __forceinline__ double exponential_f64(double x, const double2* __restrict__ parts) {
  x = x < -800.0 ? -800.0 : x > 800.0 ? 800.0 : x;
  const int steps = __double2int_rn(__dmul_rn(x, 0x1.71547652b82fep+0 * EXPONENTIAL_PARTS));
  const double whole = __int2double_rn(steps);
  const double rest = __dsub_rn(__dsub_rn(x, __dmul_rn(whole, 0x1.62e42fefa0000p-8)),
                                __dmul_rn(whole, 0x1.cf79abc9e3b39p-47));
  const double2 part = parts[steps & (EXPONENTIAL_PARTS - 1)];
  const double squared = __dmul_rn(rest, rest);
  const double low = __dadd_rn(0x1.ffffffffffdbdp-2, __dmul_rn(rest, 0x1.555555555543cp-3));
  const double high = __dadd_rn(0x1.55555cf172b91p-5, __dmul_rn(rest, 0x1.1111167a4d017p-7));
  const double polynomial = __dadd_rn(__dadd_rn(__dadd_rn(part.y, rest), __dmul_rn(squared, low)),
                                      __dmul_rn(__dmul_rn(squared, squared), high));
  return ldexp(__dadd_rn(part.x, __dmul_rn(part.x, polynomial)), steps >> 7);
}
