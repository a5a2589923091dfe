// CUDA's integer and float intrinsics in C++, with the device's results for every input, also where C++
// leaves the result undefined. Everything is computed in round-to-nearest, without contraction
// (-ffp-contract=off), as the device does under --fmad=false.
//
// Sources: CUDA Math API (names, arguments), PTX ISA (cvt, prmt, shf, dp4a: the exact results).

#pragma once

#include <math.h>    // with its C++ overloads: rint(float), fabs(double), ...
#include <stdlib.h>  // abs of every type

#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "host_vectors.h"

namespace gpuq_host {

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The bits of one type read as another.
template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// Byte `index` of a word, as a signed or unsigned number.
template <class Byte, class Word>
inline int byte_of(Word word, int index) {
  return static_cast<Byte>(static_cast<unsigned>(word) >> (8 * index));
}

template <class ByteA, class ByteB, class WordA, class WordB>
inline unsigned dp4a(WordA a, WordB b, unsigned c) {
  for (int i = 0; i < 4; ++i) {
    // A product is within 17 bits; only the sum may wrap, and unsigned numbers wrap by definition.
    c += static_cast<unsigned>(byte_of<ByteA>(a, i) * byte_of<ByteB>(b, i));
  }
  return c;
}

inline int dp4a_us(unsigned a, int b, int c) {
  return static_cast<int>(dp4a<unsigned char, signed char>(a, b, static_cast<unsigned>(c)));
}

inline unsigned pack_saturated(int b0, int b1, int b2, int b3, int low, int high) {
  unsigned word = 0;
  for (const int b : {b3, b2, b1, b0}) word = word << 8 | ((b < low ? low : b > high ? high : b) & 255);
  return word;
}

inline unsigned pack_saturated_s16(int h0, int h1) {
  const auto half = [](int h) {
    return static_cast<unsigned>(h < -32768 ? -32768 : h > 32767 ? 32767 : h) & 0xffff;
  };
  return half(h1) << 16 | half(h0);
}

// c + the two halves of a times two bytes of b, from byte `first` on.
inline int dp2a(int a, int b, int c, int first) {
  unsigned sum = static_cast<unsigned>(c);
  for (int i = 0; i < 2; ++i) {
    const int half = static_cast<short>(static_cast<unsigned>(a) >> (16 * i) & 0xffff);
    // A product is within 23 bits; only the sum may wrap.
    sum += static_cast<unsigned>(half * byte_of<signed char>(b, first + i));
  }
  return static_cast<int>(sum);
}

inline unsigned prmt(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 15;
    unsigned byte = bytes >> (8 * (nibble & 7)) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// A number that is already integral as an Int: out of range saturates. NaN gives 0 where both are 32 bits
// wide, else the pattern 10...0 (PTX ISA, cvt).
template <class Int, class Real>
inline Int saturate(Real value) {
  constexpr Int kMin = std::numeric_limits<Int>::min(), kMax = std::numeric_limits<Int>::max();
  constexpr int kBits = 8 * sizeof(Int);
  if (value != value) {
    return sizeof(Int) == 4 && sizeof(Real) == 4 ? 0 : static_cast<Int>(1ull << (kBits - 1));
  }
  // One beyond the maximum, a power of two: exact in every float type, which the maximum itself is not.
  constexpr Real kEnd = static_cast<Real>(kMax / 2 + 1) * 2;
  if (value >= kEnd) return kMax;
  if (value < static_cast<Real>(kMin)) return kMin;
  return static_cast<Int>(value);
}

}  // namespace gpuq_host

// -------------------------------------------------------------------------------------------------- integers

inline int __dp4a(int a, int b, int c) {
  return static_cast<int>(gpuq_host::dp4a<signed char, signed char>(a, b, static_cast<unsigned>(c)));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return gpuq_host::dp4a<unsigned char, unsigned char>(a, b, c);
}
inline int __dp4a(char4 a, char4 b, int c) {
  return __dp4a(gpuq_host::bit_cast<int>(a), gpuq_host::bit_cast<int>(b), c);
}
inline unsigned __dp4a(uchar4 a, uchar4 b, unsigned c) {
  return __dp4a(gpuq_host::bit_cast<unsigned>(a), gpuq_host::bit_cast<unsigned>(b), c);
}

inline int __dp2a_lo(int a, int b, int c) { return gpuq_host::dp2a(a, b, c, 0); }
inline int __dp2a_hi(int a, int b, int c) { return gpuq_host::dp2a(a, b, c, 2); }

inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  // The CUDA documentation gives these bits no meaning.
  if (selector & 0x8888)
    gpuq_host::fail("__byte_perm: selector %#x names a byte above 7; see prmt", selector);
  return gpuq_host::prmt(a, b, selector);
}

inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned long long>(a) * b >> 32; }
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>(static_cast<__int128>(a) * b >> 64);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// (high, low) shifted as one 64-bit number: the upper word of a left shift, the lower word of a right shift.
// The plain forms take the shift modulo 32, the _c forms clamp it to 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (static_cast<unsigned long long>(high) << 32 | low) << (shift & 31) >> 32;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31);
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}

inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}

// CUDA's global min and max; of one signed and one unsigned operand the result is unsigned, as there.
#define GPUQ_MIN_MAX(result, first, second)                                          \
  inline result min(first a, second b) {                                             \
    return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(a)  \
                                                           : static_cast<result>(b); \
  }                                                                                  \
  inline result max(first a, second b) {                                             \
    return static_cast<result>(a) > static_cast<result>(b) ? static_cast<result>(a)  \
                                                           : static_cast<result>(b); \
  }
GPUQ_MIN_MAX(int, int, int)
GPUQ_MIN_MAX(unsigned, unsigned, unsigned)
GPUQ_MIN_MAX(unsigned, int, unsigned)
GPUQ_MIN_MAX(unsigned, unsigned, int)
GPUQ_MIN_MAX(long, long, long)
GPUQ_MIN_MAX(unsigned long, unsigned long, unsigned long)
GPUQ_MIN_MAX(long long, long long, long long)
GPUQ_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef GPUQ_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// ------------------------------------------------------------------------------- floats to integers and back
//
// _rn to nearest, ties to even; _rz towards zero; _rd down; _ru up.

#define GPUQ_CONVERT(name, Int, Real)                                               \
  inline Int name##_rn(Real x) { return gpuq_host::saturate<Int, Real>(rint(x)); }  \
  inline Int name##_rz(Real x) { return gpuq_host::saturate<Int, Real>(trunc(x)); } \
  inline Int name##_rd(Real x) { return gpuq_host::saturate<Int, Real>(floor(x)); } \
  inline Int name##_ru(Real x) { return gpuq_host::saturate<Int, Real>(ceil(x)); }
GPUQ_CONVERT(__float2int, int, float)
GPUQ_CONVERT(__float2uint, unsigned, float)
GPUQ_CONVERT(__float2ll, long long, float)
GPUQ_CONVERT(__float2ull, unsigned long long, float)
GPUQ_CONVERT(__double2int, int, double)
GPUQ_CONVERT(__double2uint, unsigned, double)
GPUQ_CONVERT(__double2ll, long long, double)
GPUQ_CONVERT(__double2ull, unsigned long long, double)
#undef GPUQ_CONVERT

inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline double __ull2double_rn(unsigned long long x) { return static_cast<double>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __float_as_int(float x) { return gpuq_host::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return gpuq_host::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return gpuq_host::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return gpuq_host::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return gpuq_host::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return gpuq_host::bit_cast<double>(x); }

// ----------------------------------------------------------------------------------- arithmetic rounded once

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double a) { return 1.0 / a; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
