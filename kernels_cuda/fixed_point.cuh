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

// 1 / sqrt(x) ~ the result * 2^(shift - 31), shift <= 0, for x >= 0; 0 counts as 1. The twin of
// inverse_square_root() of gpuq/ops/fixed_point.py: five Newton steps in Q3.28.
__device__ __forceinline__ int inverse_square_root(int x, int* shift) {
  const int kThreeHalves = (1 << 28) + (1 << 27);  // Q3.28
  const int kHalfSqrt2 = 1518500250;               // Q0.31
  *shift = 0;
  if (x <= 1) return INT32_MAX;
  int value = x;
  int right = 11;
  while (value >= 1 << 29) {
    value >>= 2;
    ++right;
  }
  const int pairs = (__clz(value) - 1) / 2 - 1;
  value <<= 2 * pairs;
  right -= pairs;
  const int half = rounding_divide_by_pot(value >> 1, 1);
  int root = 1 << 28;
#pragma unroll
  for (int step = 0; step < 5; ++step) {
    const int cube = multiply_by_pot(mul(mul(root, root), root), 6);
    root = multiply_by_pot(mul(kThreeHalves, root) - mul(half, cube), 3);
  }
  root = mul(root, kHalfSqrt2);
  if (right < 0) {
    root = wrapping_shift_left(root, -right);
    right = 0;
  }
  *shift = -right;
  return root;
}
