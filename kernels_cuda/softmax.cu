// SOFTMAX of rows of 8-bit codes, in fixed point or (TABLE_F32) in float32.
//
//   d[i] = max - x[i]                 0 to 255
//   sum  = sum exp(d[i])              Q12.19, saturated: from 512 on every probability rounds to 0
//   y[i] = lowest + round(exp(d[i]) / sum * 256), at most the highest code
//
// In float32: y[i] = lowest + round(T[d[i]] * (1 / (sum T[d] * scale_y))), the sum one element after another
// as the runtimes add them. Every lane walks the whole row for it: all read one address.
//
// A difference has 256 values: its exponential in Q0.31 and what it adds to the sum come from two tables that
// the host computed; both are 0 where the runtimes leave a code out. One warp makes a row: its lanes take
// every 32nd word (or code), a butterfly of shuffles finds the maximum and the sum.

#include "fixed_point.cuh"

// TABLE_F32    1: in float32; 0: in fixed point
// X_UNSIGNED   1: codes are uint8; 0: int8
// VEC          4: all rows begin at multiples of 4 and hold whole words; 1: any
// THREADS      of a block

#define ALL_LANES 0xffffffffu
#define SUM_INTEGER_BITS 12

// Codes shifted to 0 ... 255, which keeps their order.
#if X_UNSIGNED
#define TO_ORDER 0u
#else
#define TO_ORDER 0x80808080u
#endif

#if TABLE_F32
// round(scaled) >= 0: int8 ties away from zero; uint8 by adding a half, whose sum is rounded, and truncation.
__device__ __forceinline__ int rounded_share(float scaled) {
#if X_UNSIGNED
  return __float2int_rz(__fadd_rn(scaled, 0.5f));
#else
  const int whole = __float2int_rz(scaled);
  return __fsub_rn(scaled, __int2float_rn(whole)) >= 0.5f ? whole + 1 : whole;
#endif
}
#endif

// `step` of a row: VEC codes, in order, one in each byte.
__device__ __forceinline__ unsigned load_codes(const unsigned char* row, int step) {
#if VEC == 4
  return reinterpret_cast<const unsigned*>(row)[step] ^ TO_ORDER;
#else
  return row[step] ^ (TO_ORDER & 0xffu);
#endif
}

// tables: exp in Q0.31 of each difference, then its part of the sum in Q12.19; in float32, the bits of T.
extern "C" __global__ void __launch_bounds__(THREADS)
    softmax(const unsigned char* __restrict__ x, long long x_pitch, const int* __restrict__ tables,
            unsigned char* __restrict__ y, long long y_pitch, int rows, int depth, float out_scale) {
  SHARED(int, differences, [512]);
  for (int i = static_cast<int>(threadIdx.x); i < 512; i += THREADS) differences[i] = tables[i];
  __syncthreads();
  const int* const exps = differences;

  const long long row = static_cast<long long>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned char* const codes = x + row * x_pitch;
  unsigned char* const target = y + row * y_pitch;
  const int steps = depth / VEC;

  int largest = 0;
#pragma unroll 4
  for (int step = lane; step < steps; step += 32) {
    const unsigned word = load_codes(codes, step);
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const int code = static_cast<int>(word >> (8 * i) & 255);
      largest = code > largest ? code : largest;
    }
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const int other = shfl_xor_sync(ALL_LANES, largest, distance);
    largest = other > largest ? other : largest;
  }

#if TABLE_F32
  float total = 0.0f;
#pragma unroll 4
  for (int step = 0; step < steps; ++step) {
    const unsigned word = load_codes(codes, step);
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      total = __fadd_rn(total, __int_as_float(exps[largest - static_cast<int>(word >> (8 * i) & 255)]));
    }
  }
  const float inverse = __fdiv_rn(1.0f, __fmul_rn(total, out_scale));
#else
  const int* const in_sum = differences + 256;
  // Both addends are at most INT32_MAX: unsigned, they cannot wrap.
  unsigned sum = 0;
#pragma unroll 2
  for (int step = lane; step < steps; step += 32) {
    const unsigned word = load_codes(codes, step);
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      sum += static_cast<unsigned>(in_sum[largest - static_cast<int>(word >> (8 * i) & 255)]);
      sum = sum < INT32_MAX ? sum : INT32_MAX;
    }
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += static_cast<unsigned>(shfl_xor_sync(ALL_LANES, static_cast<int>(sum), distance));
    sum = sum < INT32_MAX ? sum : INT32_MAX;
  }

  int bits_over_unit;
  const int inverse = reciprocal(static_cast<int>(sum), SUM_INTEGER_BITS, &bits_over_unit);
  const int right = bits_over_unit + 31 - 8;  // 23 to 34; beyond 31 nothing is left
#endif
#pragma unroll 2
  for (int step = lane; step < steps; step += 32) {
    const unsigned word = load_codes(codes, step);
    unsigned out = 0;
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
#if TABLE_F32
      const float scaled =
          __fmul_rn(__int_as_float(exps[largest - static_cast<int>(word >> (8 * i) & 255)]), inverse);
      const int share = rounded_share(fminf(scaled, 256.0f));
#else
      const int product = mul(inverse, exps[largest - static_cast<int>(word >> (8 * i) & 255)]);
      const int share = right > 31 ? 0 : rounding_divide_by_pot(product, right);
#endif
      out |= static_cast<unsigned>(share < 255 ? share : 255) << (8 * i);
    }
#if VEC == 4
    reinterpret_cast<unsigned*>(target)[step] = out ^ TO_ORDER;
#else
    target[step] = static_cast<unsigned char>(out ^ TO_ORDER);
#endif
  }
}
