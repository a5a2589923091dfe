// Operators on float32 that look at one channel through a window: DEPTHWISE_CONV_2D, AVERAGE_POOL_2D,
// MAX_POOL_2D.
//
//   DEPTHWISE   y[p, o] = clamp(bias[o] + sum_t x[p, t, o / multiplier] * w[t, o])      the bias last
//   BIAS_FIRST  the sum begins with the bias
//   FUSED       the same, and products are not rounded: in float64, which rounds as a fused multiply-add does
//   but
//               once in 2^29
//   AVERAGE     y[p, c] = clamp(sum / count)      over the taps inside the image
//   MAX         y[p, c] = clamp(max)
//
// Taps go row by row. A thread makes one element of y. x, y: NHWC with image, row and pixel pitches in bytes.

#include "float32.cuh"

// KIND      one of the kinds above
// THREADS   of a block

#define KIND_DEPTHWISE 0
#define KIND_BIAS_FIRST 1
#define KIND_FUSED 2
#define KIND_AVERAGE 3
#define KIND_MAX 4

// weights (taps, O) and bias of the convolutions; a pool has neither, and a multiplier of 1.
extern "C" __global__ void __launch_bounds__(THREADS)
    window_float32(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                   int x_pixel_pitch, const float* __restrict__ weights, const float* __restrict__ bias,
                   unsigned char* __restrict__ y, long long y_image_pitch, int y_row_pitch, int y_pixel_pitch,
                   long long elements, int in_h, int in_w, int multiplier, int out_h, int out_w, int out_c,
                   int kernel_h, int kernel_w, int stride_h, int stride_w, int dilation_h, int dilation_w,
                   int pad_top, int pad_left, float low, float high) {
  const long long element = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (element >= elements) return;
  const int o = static_cast<int>(element % out_c);
  const long long pixel = element / out_c;
  const int ow = static_cast<int>(pixel % out_w);
  const int oh = static_cast<int>(pixel / out_w % out_h);
  const long long image = pixel / out_w / out_h;
  const int top = oh * stride_h - pad_top;
  const int left = ow * stride_w - pad_left;
  const unsigned char* const channel = x + (image * x_image_pitch + 4LL * (o / multiplier));

#if KIND == KIND_MAX
  float total = -3.402823466e+38f;
#elif KIND == KIND_BIAS_FIRST || KIND == KIND_FUSED
  float total = bias == nullptr ? 0.0f : bias[o];
#else
  float total = 0.0f;
#endif
#if KIND == KIND_AVERAGE
  int count = 0;
#endif
  for (int kh = 0; kh < kernel_h; ++kh) {
    const int ih = top + kh * dilation_h;
    for (int kw = 0; kw < kernel_w; ++kw) {
      const int iw = left + kw * dilation_w;
      const bool inside = static_cast<unsigned>(ih) < static_cast<unsigned>(in_h) &&
                          static_cast<unsigned>(iw) < static_cast<unsigned>(in_w);
#if KIND == KIND_AVERAGE || KIND == KIND_MAX
      if (!inside) continue;
#endif
      const float seen =
          inside ? *reinterpret_cast<const float*>(channel + (static_cast<long long>(ih) * x_row_pitch +
                                                              static_cast<long long>(iw) * x_pixel_pitch))
                 : 0.0f;
#if KIND == KIND_AVERAGE
      total = __fadd_rn(total, seen);
      ++count;
#elif KIND == KIND_MAX
      total = total > seen || total != total ? total : seen;
#else
      const float weight = weights[static_cast<long long>(kh * kernel_w + kw) * out_c + o];
#if KIND == KIND_FUSED
      total = __double2float_rn(__dadd_rn(__dmul_rn(static_cast<double>(seen), static_cast<double>(weight)),
                                          static_cast<double>(total)));
#else
      total = plus_product(total, seen, weight);
#endif
#endif
    }
  }
#if KIND == KIND_AVERAGE
  total = __fdiv_rn(total, __int2float_rn(count));
#elif KIND == KIND_DEPTHWISE
  if (bias != nullptr) total = __fadd_rn(total, bias[o]);
#endif
  unsigned char* const target = y + (image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                                     static_cast<long long>(ow) * y_pixel_pitch);
  reinterpret_cast<float*>(target)[o] = clamped(total, low, high);
}
