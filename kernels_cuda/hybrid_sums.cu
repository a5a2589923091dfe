// Dynamic range, the end: int32 sums become float32 by the scales of row and channel, and a bias.
//
//   HYBRID    sum * (w * s) + b
//   STEPS     (sum * w) * s + b
//   BLOCK4    as STEPS in whole blocks of 4 channels, (sum * s) * w + b in the rest
//   QD8       (sum * s) * w + b, the last product and sum rounded once: in float64, which rounds as a fused
//             multiply-add does but once in 2^29
//
// The twin of finish() of gpuq/ops/hybrid.py. sums: (pixels, channels) int32; y: the same, float32. A thread
// makes one element.

#include "float32.cuh"

// KIND      one of the kinds above
// THREADS   of a block

#define KIND_HYBRID 0
#define KIND_STEPS 1
#define KIND_BLOCK4 2
#define KIND_QD8 3

// row_pixels: pixels that share a scale.
extern "C" __global__ void __launch_bounds__(THREADS)
    hybrid_sums(const int* __restrict__ sums, const float* __restrict__ scales,
                const float* __restrict__ w_scales, const float* __restrict__ bias, float* __restrict__ y,
                long long elements, int channels, int row_pixels, float low, float high) {
  const long long element = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (element >= elements) return;
  const int channel = static_cast<int>(element % channels);
  const float sum = __int2float_rn(sums[element]);
  const float s = scales[element / channels / row_pixels];
  const float w = w_scales[channel];
#if KIND == KIND_HYBRID
  const float value = __fadd_rn(__fmul_rn(sum, __fmul_rn(w, s)), bias[channel]);
#elif KIND == KIND_STEPS
  const float value = __fadd_rn(__fmul_rn(__fmul_rn(sum, w), s), bias[channel]);
#elif KIND == KIND_BLOCK4
  const bool whole = channel < channels / 4 * 4;
  const float product = __fmul_rn(__fmul_rn(sum, whole ? w : s), whole ? s : w);
  const float value = __fadd_rn(product, bias[channel]);
#else
  const double product = __dmul_rn(static_cast<double>(__fmul_rn(sum, s)), static_cast<double>(w));
  const float value = __double2float_rn(__dadd_rn(product, static_cast<double>(bias[channel])));
#endif
  y[element] = clamped(value, low, high);
}
