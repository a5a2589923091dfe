// gemmlowp's fixed-point functions. The twin of gpuq/ops/fixed_point.py: same names, same order.
//
// Qi.f means a raw integer r stands for r * 2^-f with i integer bits, i + f = 31.
// Source: gemmlowp 16e8662c, fixedpoint/fixedpoint.h.

#pragma once

#include "portable.cuh"
#include "requantize.cuh"

#define INT32_MAX 0x7fffffff
#define ONE_Q0 INT32_MAX

// round(a * b / 2^31), ties up; a and b are never both -2^31, the one product that saturates.
__device__ __forceinline__ int mul(int a, int b) { return rounding_doubling_high_mul(a, b); }

// value * 2^exponent, 0 < exponent < 31, saturating to int32.
__device__ __forceinline__ int multiply_by_pot(int value, int exponent) {
  const int threshold = (1 << (31 - exponent)) - 1;
  if (value > threshold) return INT32_MAX;
  if (value < -threshold) return -INT32_MAX - 1;
  return wrapping_shift_left(value, exponent);
}

// 1 / (1 + a) for a in [0, 1], Q0.31 to Q0.31: three Newton steps in Q2.29.
__device__ __forceinline__ int one_over_one_plus_x(int a) {
  const int k48Over17 = 1515870810;        // Q2.29
  const int kMinus32Over17 = -1010580540;  // Q2.29
  const int kOne = 1 << 29;                // Q2.29
  // Half of a sum of two non-negative numbers, ties up.
  const int half_denominator =
      static_cast<int>((static_cast<unsigned>(a) + static_cast<unsigned>(ONE_Q0) + 1u) >> 1);
  int x = k48Over17 + mul(kMinus32Over17, half_denominator);
#pragma unroll
  for (int step = 0; step < 3; ++step) {
    const int rest = kOne - mul(half_denominator, x);
    x += multiply_by_pot(mul(rest, x), 2);
  }
  // x is 2 / (1 + a) in Q2.29, which read as Q1.30 is the result.
  return multiply_by_pot(x, 1);
}

// 1 / x ~ the result * 2^-31 * 2^-bits for x > 0 in Q(integer_bits).
__device__ __forceinline__ int reciprocal(int x, int integer_bits, int* bits) {
  const int headroom_plus_one = __clz(x);
  const int normalized = static_cast<int>((static_cast<unsigned>(x) << headroom_plus_one) - 0x80000000u);
  *bits = integer_bits - headroom_plus_one;
  return one_over_one_plus_x(normalized);
}
