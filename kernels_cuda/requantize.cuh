// Requantization: an int32 sum becomes a code. The twin of gpuq/numerics.py: same names, same order, same
// rules.
//
//   acc         exact sum, wrapped modulo 2^32
//   multiplier  Q0.31 in [2^30, 2^31), or 0, or below 2^30 for MEAN
//   shift       real factor = multiplier * 2^(shift - 31); shift > 0 is left; -31 <= shift <= 30
//
// The result is the code before the activation range. A kernel is compiled for one rule:
// Requantize<RULE>::apply(acc, factor, zero_point), where factor is what the rule needs per channel.
//
// Everything is compiled with --fmad=false: a product and a sum must stay two roundings.
// Sources: LiteRT f67457790 tflite/kernels/internal/common.cc; gemmlowp 16e8662c fixedpoint/fixedpoint.h;
// ruy 2af88863; XNNPACK 75db3c093; LiteRT 921360770 (V6).
#pragma once

#include "portable.cuh"

enum Rule {
  RULE_V1 = 1,        // double rounding, any shift
  RULE_V1_RIGHT = 2,  // V1 where nothing shifts left and nothing comes near int32's ends, which packing
                      // proves from the weights: half the instructions, for almost every layer
  RULE_V1U = 3,
  RULE_V2 = 4,
  RULE_V3 = 5,
  RULE_V4 = 6,
  RULE_V6 = 7,
  RULE_RECIPROCAL_F32 = 8,  // MEAN and SUM of XNNPACK
  RULE_AFFINE_F32 = 9,      // SUM of LiteRT's optimized kernels
  RULE_V1_BLOCKS = 10,      // V1U in whole blocks of channels, V1 in the rest
  RULE_V4_INT28 = 11,       // V4 on sums modulo 2^28
};

// acc << shift modulo 2^32, without signed overflow.
__device__ __forceinline__ int wrapping_shift_left(int value, int shift) {
  return static_cast<int>(static_cast<unsigned>(value) << shift);
}

// round(a * b / 2^31), ties up, for b >= 0, as every multiplier is: nothing can saturate, as -2^31 * -2^31
// would. |a * b| < 2^62, so the sum with 2^30 fits 64 bits.
__device__ __forceinline__ int rounding_doubling_high_mul(int a, int b) {
  return static_cast<int>(mad_wide(a, b, 1LL << 30) >> 31);
}

// round(value / 2^exponent), ties away from zero, 0 <= exponent <= 31.
__device__ __forceinline__ int rounding_divide_by_pot(int value, int exponent) {
  const int mask = static_cast<int>((1u << exponent) - 1u);  // exponent 31 gives 0x7fffffff
  const int remainder = value & mask;
  const int threshold = (mask >> 1) + (value < 0 ? 1 : 0);
  return (value >> exponent) + (remainder > threshold ? 1 : 0);
}

// What a rule needs to know of a channel.
struct FixedPointFactor {
  int multiplier;
  int shift;
};

// V1_RIGHT's: right = -shift, and everything that does not depend on acc in one number,
// offset = 2^(right - 1) + zero_point * 2^right. A channel whose every sum gives one code has multiplier 0,
// right 0 and that code as its offset, and only sums of 0.
struct __align__(16) RightShiftFactor {
  int multiplier;  // 2 * multiplier - 2^32, which is an int32
  int right;
  int half;  // -2^31, and with the next word the 64-bit sum offset * 2^32 + 2^31
  int offset;
};

// Results saturated at int32's ends must not wrap to the other one.
__device__ __forceinline__ int with_zero_point(int code, int zero_point) {
  const long long sum = static_cast<long long>(code) + zero_point;
  return sum > 0x7fffffffLL ? 0x7fffffff : sum < -0x80000000LL ? -0x7fffffff - 1 : static_cast<int>(sum);
}

template <int RULE>
struct Requantize;

template <>
struct Requantize<RULE_V1> {
  typedef FixedPointFactor Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int zero_point) {
    const int left = factor.shift > 0 ? factor.shift : 0;
    const int right = factor.shift > 0 ? 0 : -factor.shift;
    const int high = rounding_doubling_high_mul(wrapping_shift_left(acc, left), factor.multiplier);
    return with_zero_point(rounding_divide_by_pot(high, right), zero_point);
  }
};

template <>
struct Requantize<RULE_V1_RIGHT> {
  typedef RightShiftFactor Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int) {
    // h = round(acc * m / 2^31) is the upper word of acc * 2m + 2^31. As 2m is no int32, 2m - 2^32 stands in
    // for it, and the acc * 2^32 that this leaves out is added to the upper word, as is the offset.
    const int high = upper_word(mad_wide(acc, factor.multiplier, word_pair(factor.half, factor.offset)));
    // floor((h + half - [h < 0]) / 2^right) rounds ties away from zero; a zero point times 2^right goes
    // through the floor as it is. acc < 0 stands in for h < 0: they differ at acc = -1, m = 2^30 alone, where
    // h is 0 and both give 0. Packing has proven that the last sum is an int32 for every sum that the weights
    // allow; on the way there it may wrap.
    const unsigned sum =
        static_cast<unsigned>(high) + static_cast<unsigned>(acc) + static_cast<unsigned>(acc >> 31);
    return static_cast<int>(sum) >> factor.right;
  }
};

template <>
struct Requantize<RULE_V1U> {
  typedef FixedPointFactor Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int zero_point) {
    const int left = factor.shift > 0 ? factor.shift : 0;
    const int right = factor.shift > 0 ? 0 : -factor.shift;
    const int high = rounding_doubling_high_mul(wrapping_shift_left(acc, left), factor.multiplier);
    const long long half = (1LL << right) >> 1;
    return with_zero_point(static_cast<int>((high + half) >> right), zero_point);
  }
};

struct BlockFactor {
  int multiplier;
  int shift;
  int away;  // 1: V1, the channel is behind the last whole block; 0: V1U
};

template <>
struct Requantize<RULE_V1_BLOCKS> {
  typedef BlockFactor Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int zero_point) {
    const int left = factor.shift > 0 ? factor.shift : 0;
    const int right = factor.shift > 0 ? 0 : -factor.shift;
    const int high = rounding_doubling_high_mul(wrapping_shift_left(acc, left), factor.multiplier);
    // Ties of negative numbers are all that the rules differ in: see rounding_divide_by_pot().
    const int mask = static_cast<int>((1u << right) - 1u);
    const int threshold = (mask >> 1) + (high < 0 ? factor.away : 0);
    return with_zero_point((high >> right) + ((high & mask) > threshold ? 1 : 0), zero_point);
  }
};

template <>
struct Requantize<RULE_V2> {
  typedef FixedPointFactor Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int zero_point) {
    const int total_shift = 31 - factor.shift;  // 1 to 62
    const long long product = static_cast<long long>(acc) * factor.multiplier;
    // |product| + half <= 2^62 + 2^61. The result is cut to 32 bits, as the runtimes cut it.
    return with_zero_point(static_cast<int>((product + (1LL << (total_shift - 1))) >> total_shift),
                           zero_point);
  }
};

template <>
struct Requantize<RULE_V3> {
  typedef FixedPointFactor Factor;
  static __device__ __forceinline__ int apply(long long acc, Factor factor, int zero_point) {
    const int reduced = factor.multiplier < 0x7fff0000 ? (factor.multiplier + (1 << 15)) >> 16 : 0x7fff;
    const int total_shift = 15 - factor.shift;  // 8 to 46
    // |acc| < 2^47 and reduced < 2^15: the product stays below 2^62.
    return with_zero_point(static_cast<int>((acc * reduced + (1LL << (total_shift - 1))) >> total_shift),
                           zero_point);
  }
};

template <>
struct Requantize<RULE_V4> {
  typedef float Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int zero_point) {
    // Saturates beyond int32; the clamp that follows gives the same end.
    return with_zero_point(__float2int_rn(__fmul_rn(__int2float_rn(acc), factor)), zero_point);
  }
};

template <>
struct Requantize<RULE_V4_INT28> {
  typedef float Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int zero_point) {
    return Requantize<RULE_V4>::apply(wrapping_shift_left(acc, 4) >> 4, factor, zero_point);
  }
};

template <>
struct Requantize<RULE_V6> {
  typedef double Factor;
  template <class Sum>  // int, or long long below 2^53
  static __device__ __forceinline__ int apply(Sum acc, Factor factor, int zero_point) {
    const double scaled = __dmul_rn(static_cast<double>(acc), factor);
    // C's round(): truncation after adding the largest double below one half is exact for every value.
    const double below_half = 0x1.fffffffffffffp-2;
    return with_zero_point(__double2int_rz(__dadd_rn(scaled, scaled < 0.0 ? -below_half : below_half)),
                           zero_point);
  }
};

// multiplier and shift are the bits of two floats: a factor, and an offset that the zero point is in.
template <>
struct Requantize<RULE_RECIPROCAL_F32> {
  typedef FixedPointFactor Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int) {
    const float scaled = __fmul_rn(__int2float_rn(acc), __int_as_float(factor.multiplier));
    // Saturates beyond int32, as in V4.
    return __float2int_rn(__fadd_rn(scaled, __int_as_float(factor.shift)));
  }
};

// The same two floats; ties away from zero, and the zero point behind.
template <>
struct Requantize<RULE_AFFINE_F32> {
  typedef FixedPointFactor Factor;
  static __device__ __forceinline__ int apply(int acc, Factor factor, int zero_point) {
    const float scaled = __fadd_rn(__fmul_rn(__int2float_rn(acc), __int_as_float(factor.multiplier)),
                                   __int_as_float(factor.shift));
    const float whole = truncf(scaled);
    const bool up = fabsf(__fsub_rn(scaled, whole)) >= 0.5f;
    return with_zero_point(__float2int_rz(up ? __fadd_rn(whole, copysignf(1.0f, scaled)) : whole),
                           zero_point);
  }
};
