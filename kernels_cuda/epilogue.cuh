// The end of every convolution: four sums of neighbouring channels become four codes, and one store.
//
//   code = clamp(zp_y + requantize(sum))      clamped to [act_min, act_max], which lies within the codes'
//   range

#pragma once

#include "portable.cuh"
#include "requantize.cuh"

// RULE         see requantize.cuh
// X_UNSIGNED   1: codes are uint8, of x and of y; 0: int8
// CLAMP        0: [act_min, act_max] is the whole range of the codes, so that saturation clamps

typedef typename Requantize<RULE>::Factor Factor;

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

// Sums wrap modulo 2^32 as in the runtimes: dp4a wraps, everything else is computed as unsigned.
__device__ __forceinline__ int wrapping_add(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
__device__ __forceinline__ int wrapping_multiply(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) * static_cast<unsigned>(b));
}

__device__ __forceinline__ int clamped_code(int sum, Factor factor, int zero_point, int act_min,
                                            int act_max) {
  int code = Requantize<RULE>::apply(sum, factor, zero_point);
#if CLAMP
  code = code < act_min ? act_min : code;
  code = code > act_max ? act_max : code;
#endif
  return code;
}

// The codes of four sums, the first in the lowest byte.
__device__ __forceinline__ unsigned codes_of(const int sums[4], const Factor factors[4], int zero_point,
                                             int act_min, int act_max) {
  int codes[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) codes[c] = clamped_code(sums[c], factors[c], zero_point, act_min, act_max);
#if X_UNSIGNED
  return pack_saturated_u8(codes[0], codes[1], codes[2], codes[3]);
#else
  return pack_saturated_s8(codes[0], codes[1], codes[2], codes[3]);
#endif
}

// One code, saturated.
__device__ __forceinline__ unsigned char saturated_byte(int code) {
#if X_UNSIGNED
  return static_cast<unsigned char>(pack_saturated_u8(code, 0, 0, 0));
#else
  return static_cast<unsigned char>(pack_saturated_s8(code, 0, 0, 0));
#endif
}

// Writes the first `count` codes; as one word if the caller knows that target is a multiple of 4 and count 4.
__device__ __forceinline__ void store_codes(unsigned char* target, unsigned codes, int count, bool as_word) {
  if (as_word) {
    *reinterpret_cast<unsigned*>(target) = codes;
    return;
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c < count) target[c] = static_cast<unsigned char>(codes >> (8 * c));
  }
}
