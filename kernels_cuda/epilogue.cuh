// The end of every convolution: four sums of neighbouring channels become four codes, and one store.
//
//   code = clamp(zp_y + requantize(sum))      clamped to [act_min, act_max], which lies within the codes'
//   range
//
// The operators that follow may be fused: an ADD or SUB of a tensor of the same shape, the residual, and a
// function of one code.
//
//   code = map[clamp(zp + requantize(a[code] + b[residual]))]

#pragma once

#include "codes.cuh"
#include "requantize.cuh"

// RULE         see requantize.cuh
// CLAMP        0: [act_min, act_max] is the whole range of the codes, so that saturation clamps
// FUSED_SUM    1: an ADD or SUB follows, with
//                SUM_RULE, SUM_CLAMP         its rule, and whether its activation leaves out codes
//                SUM_A_TABLE, SUM_B_TABLE    A_TABLE and B_TABLE of binary_codes.cu
// FUSED_MAP    1: a table of 256 codes follows
// Both are of 8-bit codes alone. And those of codes.cuh, for x and for y.

typedef typename Requantize<RULE>::Factor Factor;

#if X_BITS == 8
// x as signed or unsigned bytes, w as signed ones.
__device__ __forceinline__ int multiply_add(int x, int w, int acc) {
#if X_UNSIGNED
  return dp4a_us(static_cast<unsigned>(x), w, acc);
#else
  return dp4a(x, w, acc);
#endif
}

// acc plus the four bytes of x.
__device__ __forceinline__ int add_bytes(int x, int acc) { return multiply_add(x, 0x01010101, acc); }
#endif

// Sums wrap modulo 2^32 as in the runtimes: dp4a wraps, everything else is computed as unsigned.
__device__ __forceinline__ int wrapping_add(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
__device__ __forceinline__ int wrapping_multiply(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) * static_cast<unsigned>(b));
}

template <class Sum>
__device__ __forceinline__ int clamped_code(Sum sum, Factor factor, int zero_point, int act_min,
                                            int act_max) {
  int code = Requantize<RULE>::apply(sum, factor, zero_point);
#if CLAMP
  code = code < act_min ? act_min : code;
  code = code > act_max ? act_max : code;
#endif
  return code;
}

// What one operand of a sum or product is worth for code i: by a table, or scale * code + offset.
template <int TABLE>
__device__ __forceinline__ int value_of(Codes codes, int i, const int* table, int scale, int offset) {
  if (TABLE) return table[bits_of(codes, i)];
  return wrapping_add(wrapping_multiply(code_of(codes, i), scale), offset);
}

// The codes of four sums.
template <class Sum>
__device__ __forceinline__ Codes codes_of(const Sum sums[4], const Factor factors[4], int zero_point,
                                          int act_min, int act_max) {
  int codes[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) codes[c] = clamped_code(sums[c], factors[c], zero_point, act_min, act_max);
  return pack_saturated(codes[0], codes[1], codes[2], codes[3]);
}

#if FUSED_SUM || FUSED_MAP
// What follows the codes, as gpuq/cuda/fusion.py packs it, in words:
//   a_scale, a_offset, b_scale, b_offset, zero point, act_min, act_max, 0,   factor (4),   tables
#define FUSED_FACTOR 8
#define FUSED_TABLES 12

// What is stored in place of `COUNT` codes, the first in the lowest byte; residual: theirs, likewise.
template <int COUNT>
__device__ __forceinline__ unsigned fused_codes(unsigned codes, unsigned residual, const int* fused) {
#if FUSED_SUM
  const int* const a_table = fused + FUSED_TABLES;
  const int* const b_table = a_table + 256 * SUM_A_TABLE;
  typedef typename Requantize<SUM_RULE>::Factor SumFactor;
  const SumFactor factor = *reinterpret_cast<const SumFactor*>(fused + FUSED_FACTOR);
  int sums[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    const int sum = wrapping_add(value_of<SUM_A_TABLE>(codes, i, a_table, fused[0], fused[1]),
                                 value_of<SUM_B_TABLE>(residual, i, b_table, fused[2], fused[3]));
    sums[i] = Requantize<SUM_RULE>::apply(sum, factor, fused[4]);
#if SUM_CLAMP
    sums[i] = sums[i] < fused[5] ? fused[5] : sums[i];
    sums[i] = sums[i] > fused[6] ? fused[6] : sums[i];
#endif
  }
  codes = pack_saturated(sums[0], sums[1], sums[2], sums[3]);
#endif
#if FUSED_MAP
#if FUSED_SUM
  const int* const map = b_table + 256 * SUM_B_TABLE;
#else
  const int* const map = fused + FUSED_TABLES;
#endif
  unsigned mapped = 0;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    mapped |= static_cast<unsigned>(reinterpret_cast<const unsigned char*>(map)[codes >> (8 * i) & 255])
              << (8 * i);
  }
  codes = mapped;
#endif
  return codes;
}
#endif

// What is stored in place of four codes; residual: where theirs lie, if there is a sum; count, together: see
// load_codes().
__device__ __forceinline__ Codes fused_word(Codes codes, const unsigned char* residual, int count,
                                            bool together, const int* fused) {
#if FUSED_SUM
  return fused_codes<4>(codes, load_codes(residual, count, together), fused);
#elif FUSED_MAP
  return fused_codes<4>(codes, 0, fused);
#else
  return codes;
#endif
}
