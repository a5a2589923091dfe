// Real values become codes: y = clamp(round(x / scale) + zero_point), ties away from zero, or (RECIPROCAL) y
// = clamp(round(x * (1 / scale)) + zero_point), ties to even, and in the elements behind the last whole block
// of a run the quotient in float64, ties away from zero.
//
// The quotient is rounded to float32 as in the runtimes (LiteRT
// tflite/kernels/internal/reference/quantize.h); codes beyond the range saturate; NaN, which has no code,
// gives the lowest one.
//
// A thread makes four neighbouring codes. Channels, where scales differ, lie `inner` elements apart:
// channel = i / inner % channels.

#include "portable.cuh"

// CODE          type of a code: signed char, unsigned char, short, int
// PER_CHANNEL   1: one scale and zero point per channel; 0: one for all
// RECIPROCAL    1: by the reciprocal; 2: the same, and there are elements behind the last whole block; 0: by
// the
//               quotient
// VECTOR        1: x is a multiple of 16, y of 4 codes; 0: any address
// THREADS       of a block

struct __align__(4 * sizeof(CODE)) FourCodes {
  CODE codes[4];
};

// round(value) as an integer, ties away from zero: exact, for no half is added before it is cut off.
__device__ __forceinline__ float round_half_away(float value) {
  const float whole = truncf(value);
  return fabsf(value - whole) >= 0.5f ? whole + copysignf(1.0f, value) : whole;
}

// value / scale as an integer.
__device__ __forceinline__ float steps_of(float value, float scale, bool in_whole_block) {
#if RECIPROCAL == 2
  if (!in_whole_block) {
    const double quotient = __ddiv_rn(static_cast<double>(value), static_cast<double>(scale));
    const double whole = trunc(quotient);
    // Beyond float32 the code is at its end: the conversion saturates nothing that counts.
    return __double2float_rn(fabs(quotient - whole) >= 0.5 ? whole + copysign(1.0, quotient) : whole);
  }
#endif
#if RECIPROCAL
  return rintf(__fmul_rn(value, __fdiv_rn(1.0f, scale)));
#else
  return round_half_away(__fdiv_rn(value, scale));
#endif
}

__device__ __forceinline__ CODE code_of(float value, float scale, bool in_whole_block, int zero_point,
                                        int code_min, int code_max) {
  const float rounded = steps_of(value, scale, in_whole_block);
  // Clamped before the zero point is added, far beyond what any sum can bring back into the range.
  const long long sum =
      sizeof(CODE) == 4
          ? __float2ll_rz(fminf(fmaxf(rounded, -0x1p40f), 0x1p40f)) + zero_point
          : static_cast<long long>(__float2int_rz(fminf(fmaxf(rounded, -0x1p20f), 0x1p20f)) + zero_point);
  return static_cast<CODE>(sum < code_min ? code_min : sum > code_max ? code_max : sum);
}

// run, whole: elements of a run, and those of them in whole blocks.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize(const float* __restrict__ x, const float* __restrict__ scales,
             const int* __restrict__ zero_points, CODE* __restrict__ y, long long elements, long long inner,
             int channels, int code_min, int code_max, int run, int whole) {
  const long long first = 4 * (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x);
  if (first >= elements) return;
  const int count = elements - first < 4 ? static_cast<int>(elements - first) : 4;
  float values[4];
  if (VECTOR && count == 4) {
    const float4 four = *reinterpret_cast<const float4*>(x + first);
    values[0] = four.x;
    values[1] = four.y;
    values[2] = four.z;
    values[3] = four.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = i < count ? x[first + i] : 0.0f;
  }
  FourCodes four;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int channel =
        PER_CHANNEL ? static_cast<int>((i < count ? first + i : first) / inner % channels) : 0;
    const bool in_whole_block = RECIPROCAL != 2 || (first + i) % run < whole;
    four.codes[i] =
        code_of(values[i], scales[channel], in_whole_block, zero_points[channel], code_min, code_max);
  }
  if (VECTOR && count == 4) {
    *reinterpret_cast<FourCodes*>(y + first) = four;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) y[first + i] = four.codes[i];
    }
  }
}
