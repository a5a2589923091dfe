// Dynamic range: rows of float32 become codes minus their zero point, int16, and a scale each.
//
//   SYMMETRIC    scale = max |x| / 127
//   ASYMMETRIC   codes -128 ... 127 over the row's range, which holds 0, in float32 and float64 as LiteRT
//   mixes them QD8          the same, all in float32, as XNNPACK computes it
//
// The twin of gpuq/ops/dynamic_range.py. LANES neighbouring threads make a row: they find its ends together,
// then each takes every LANES-th element. Rows are contiguous and finite.

#include "portable.cuh"

// KIND      one of the kinds above
// LANES     of a row: 32 or THREADS
// THREADS   of a block

#define KIND_SYMMETRIC 0
#define KIND_ASYMMETRIC 1
#define KIND_QD8 2

#define ALL_LANES 0xffffffffu
#define VECTOR 8

__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }

__device__ __forceinline__ double round_half_away(double value) {
  const double whole = trunc(value);
  return fabs(value - whole) >= 0.5 ? whole + copysign(1.0, value) : whole;
}

// The nearest integer: whole vectors of a row add a half and cut off, what is behind them is rounded as C
// does.
__device__ __forceinline__ float steps_of(float scaled, int i, int depth) {
  if (i < depth / VECTOR * VECTOR) return truncf(__fadd_rn(scaled, scaled < 0.0f ? -0.5f : 0.5f));
  const float whole = truncf(scaled);
  return fabsf(__fsub_rn(scaled, whole)) >= 0.5f ? __fadd_rn(whole, copysignf(1.0f, scaled)) : whole;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_rows(const float* __restrict__ x, short* __restrict__ codes, float* __restrict__ scales,
                  int rows, int depth) {
  const long long row = static_cast<long long>(blockIdx.x) * (THREADS / LANES) + threadIdx.x / LANES;
  const int lane = static_cast<int>(threadIdx.x) % LANES;
#if LANES == 32
  if (row >= rows) return;
#endif
  const float* const source = x + row * depth;
  float low = 0.0f;
  float high = 0.0f;
  for (int i = lane; i < depth; i += LANES) {
    low = smaller(low, source[i]);
    high = larger(high, source[i]);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    low = smaller(low, __int_as_float(shfl_xor_sync(ALL_LANES, __float_as_int(low), distance)));
    high = larger(high, __int_as_float(shfl_xor_sync(ALL_LANES, __float_as_int(high), distance)));
  }
#if LANES > 32
  SHARED(float, ends, [2][LANES / 32]);
  if (lane % 32 == 0) {
    ends[0][lane / 32] = low;
    ends[1][lane / 32] = high;
  }
  __syncthreads();
  for (int warp = 0; warp < LANES / 32; ++warp) {
    low = smaller(low, ends[0][warp]);
    high = larger(high, ends[1][warp]);
  }
#endif

#if KIND == KIND_SYMMETRIC
  const float reach = larger(-low, high);
  const float scale = reach == 0.0f ? 1.0f : __fdiv_rn(reach, 127.0f);
  const float factor = __fdiv_rn(127.0f, reach == 0.0f ? 1.0f : reach);
  const int zero_point = 0;
  const float lowest = -127.0f;
#elif KIND == KIND_ASYMMETRIC
  double exact = 1.0;
  double chosen = 0.0;
  if (low != high) {
    exact = __ddiv_rn(static_cast<double>(__fsub_rn(high, low)), 255.0);
    const double below = __ddiv_rn(static_cast<double>(low), exact);
    const double above = __ddiv_rn(static_cast<double>(high), exact);
    chosen = __dadd_rn(128.0, fabs(below)) < __dadd_rn(127.0, fabs(above)) ? __dsub_rn(-128.0, below)
                                                                           : __dsub_rn(127.0, above);
    chosen = round_half_away(fmin(fmax(chosen, -128.0), 127.0));
  }
  const float scale = __double2float_rn(exact);
  const float factor = scale == 0.0f ? 0.0f : __fdiv_rn(1.0f, scale);
  const int zero_point = static_cast<int>(chosen);
  const float lowest = -128.0f;
#else
  const float factor = low == high ? 1.0f : __fdiv_rn(255.0f, __fsub_rn(high, low));
  const float below = __fmul_rn(low, factor);
  const float above = __fmul_rn(high, factor);
  const bool from_low = __fadd_rn(__fadd_rn(-128.0f, below), __fadd_rn(127.0f, above)) > 0.0f;
  const float chosen = from_low ? __fsub_rn(-128.0f, below) : __fsub_rn(127.0f, above);
  const int zero_point = static_cast<int>(rintf(fminf(fmaxf(chosen, -128.0f), 127.0f)));
  const float scale = __fdiv_rn(1.0f, factor);
  const float lowest = -128.0f;
#endif
  if (lane == 0) scales[row] = scale;
  short* const target = codes + row * depth;
  for (int i = lane; i < depth; i += LANES) {
    const float scaled = __fmul_rn(source[i], factor);
#if KIND == KIND_QD8
    const float steps = rintf(scaled);
#else
    const float steps = steps_of(scaled, i, depth);
#endif
    // A sum with the zero point that float32 rounds lies far beyond the codes.
    const float code = fminf(fmaxf(__fadd_rn(steps, static_cast<float>(zero_point)), lowest), 127.0f);
    target[i] = static_cast<short>(static_cast<int>(code) - zero_point);
  }
}
