// Four neighbouring codes at a time: loaded, taken apart, saturated and stored.
//
// Operators with int8, uint8 and int16 codes are one source each: they are written in terms of this header.

#pragma once

#include "portable.cuh"

// X_BITS       bits of a code: 8 or 16
// X_UNSIGNED   1: codes are uint8; 0: int8 or int16

#define CODE_BYTES (X_BITS / 8)
#define CODE_STATES (1 << X_BITS)

// One code, and four of them, the first in the lowest bits.
#if X_BITS == 16
typedef short Code;
typedef uint2 Codes;
#elif X_UNSIGNED
typedef unsigned char Code;
typedef unsigned Codes;
#else
typedef signed char Code;
typedef unsigned Codes;
#endif

// Code i as its value.
__device__ __forceinline__ int code_of(Codes codes, int i) {
#if X_BITS == 16
  const int word = static_cast<int>(i < 2 ? codes.x : codes.y);
  return i % 2 == 0 ? static_cast<int>(prmt(word, 0, 0x9910)) : word >> 16;
#elif X_UNSIGNED
  return static_cast<int>(prmt(codes, 0, 0x4440 + i));
#else
  return static_cast<int>(prmt(codes, 0, 0x8880 + 0x1111 * i));
#endif
}

// Code i as the number of its bits, which tables are sorted by.
__device__ __forceinline__ unsigned bits_of(Codes codes, int i) {
#if X_BITS == 16
  return (i < 2 ? codes.x : codes.y) >> (16 * (i % 2)) & 0xffffu;
#else
  return codes >> (8 * i) & 255u;
#endif
}

// sum plus code i; of bytes in one instruction.
__device__ __forceinline__ int add_code(int sum, Codes codes, int i) {
#if X_BITS == 16
  return static_cast<int>(static_cast<unsigned>(sum) + static_cast<unsigned>(code_of(codes, i)));
#elif X_UNSIGNED
  return dp4a_us(codes, 1 << (8 * i), sum);
#else
  return dp4a(static_cast<int>(codes), 1 << (8 * i), sum);
#endif
}

// Four numbers, each saturated to the codes' range.
__device__ __forceinline__ Codes pack_saturated(int code0, int code1, int code2, int code3) {
#if X_BITS == 16
  return make_uint2(pack_saturated_s16(code0, code1), pack_saturated_s16(code2, code3));
#elif X_UNSIGNED
  return pack_saturated_u8(code0, code1, code2, code3);
#else
  return pack_saturated_s8(code0, code1, code2, code3);
#endif
}

// One number, saturated.
__device__ __forceinline__ Code saturated_code(int code) {
#if X_BITS == 16
  return static_cast<Code>(pack_saturated(code, 0, 0, 0).x & 0xffffu);
#else
  return static_cast<Code>(pack_saturated(code, 0, 0, 0) & 255u);
#endif
}

// The first `count` codes at source; one load if the caller knows that source is a multiple of four codes and
// count 4.
__device__ __forceinline__ Codes load_codes(const unsigned char* source, int count, bool together) {
  if (together) return *reinterpret_cast<const Codes*>(source);
#if X_BITS == 16
  const unsigned short* const codes = reinterpret_cast<const unsigned short*>(source);
  unsigned words[2] = {0, 0};
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c < count) words[c / 2] |= static_cast<unsigned>(codes[c]) << (16 * (c % 2));
  }
  return make_uint2(words[0], words[1]);
#else
  unsigned word = 0;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c < count) word |= static_cast<unsigned>(source[c]) << (8 * c);
  }
  return word;
#endif
}

// Writes the first `count` codes; together: see load_codes().
__device__ __forceinline__ void store_codes(unsigned char* target, Codes codes, int count, bool together) {
  if (together) {
    *reinterpret_cast<Codes*>(target) = codes;
    return;
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c < count) reinterpret_cast<Code*>(target)[c] = static_cast<Code>(bits_of(codes, c));
  }
}
