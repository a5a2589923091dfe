// Codes become real values: y = float32(scale * (x - zero_point)), the product as if in float64.
//
// A difference of 8- or 16-bit codes has at most 17 bits and a float32 scale 24: their product is exact in
// float64, so that one rounding to float32 is left, which is what a float32 product does. Only int32 codes
// need float64. Source: LiteRT tflite/kernels/internal/reference/dequantize.h.
//
// With BLOCKS the elements in whole blocks of a run are float32(scale * x) + moved instead, moved =
// float32(-scale * zero_point).
//
// A thread makes four neighbouring values. Channels, where scales differ, lie `inner` elements apart:
// channel = i / inner % channels.

#include "portable.cuh"

// CODE          type of a code: signed char, unsigned char, short, int
// PER_CHANNEL   1: one scale and zero point per channel; 0: one for all
// BLOCKS        1: a rule of blocks; 0: none
// VECTOR        1: x is a multiple of 4 codes, y of 16; 0: any address
// THREADS       of a block

struct __align__(4 * sizeof(CODE)) FourCodes {
  CODE codes[4];
};

__device__ __forceinline__ float value_of(CODE code, float scale, int zero_point) {
  if (sizeof(CODE) < 4) return __fmul_rn(scale, __int2float_rn(static_cast<int>(code) - zero_point));
  const long long difference = static_cast<long long>(code) - zero_point;
  return __double2float_rn(__dmul_rn(static_cast<double>(scale), static_cast<double>(difference)));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize(const CODE* __restrict__ x, const float* __restrict__ scales,
               const int* __restrict__ zero_points, float* __restrict__ y, long long elements,
               long long inner, int channels, int run, int whole, float moved) {
  const long long first = 4 * (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x);
  if (first >= elements) return;
  const int count = elements - first < 4 ? static_cast<int>(elements - first) : 4;
  FourCodes four;
  if (VECTOR && count == 4) {
    four = *reinterpret_cast<const FourCodes*>(x + first);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) four.codes[i] = i < count ? x[first + i] : static_cast<CODE>(0);
  }
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int channel =
        PER_CHANNEL ? static_cast<int>((i < count ? first + i : first) / inner % channels) : 0;
#if BLOCKS
    if ((first + i) % run < whole) {
      values[i] =
          __fadd_rn(__fmul_rn(__int2float_rn(static_cast<int>(four.codes[i])), scales[channel]), moved);
      continue;
    }
#endif
    values[i] = value_of(four.codes[i], scales[channel], zero_points[channel]);
  }
  if (VECTOR && count == 4) {
    *reinterpret_cast<float4*>(y + first) = make_float4(values[0], values[1], values[2], values[3]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) y[first + i] = values[i];
    }
  }
}
