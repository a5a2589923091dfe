// TRANSPOSE_CONV of uint8, the elements of a run's output behind the last whole block of 16: they are rounded
// by V1 and the others by V1U.
//
//   y[n, i, j, o] = clamp(zp_y + requantize(b[o] + sum (x[n, (i + pad - kh) / stride, ..., c] - zp_x) *
//                                                      (w[o, kh, kw, c] - zp_w)))
//
// over the taps (kh, kw) at which i + pad - kh and j + pad - kw are multiples of the strides inside the
// input. The other elements, and these too, are made by convolutions before (cuda/transpose_conv.py); at most
// 15 a run are made again here, a warp each: its lanes take every 32nd channel.
//
//   x, y   NHWC codes, with image, row and pixel pitches in bytes
//   w      OHWI codes

#include "epilogue.cuh"

// THREADS   of a block
// and those of epilogue.cuh, RULE being RULE_V1

#define ALL_LANES 0xffffffffu

// elements: of all runs. first, rest: of a run's elements, the first that is made, and how many; images: of a
// run.
extern "C" __global__ void __launch_bounds__(THREADS)
    transpose_conv_rest(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                        int x_pixel_pitch, const unsigned char* __restrict__ weights,
                        const int* __restrict__ bias, unsigned char* __restrict__ y, long long y_image_pitch,
                        int y_row_pitch, int y_pixel_pitch, int elements, int first, int rest, int images,
                        int in_h, int in_w, int in_c, int out_h, int out_w, int out_c, int kernel_h,
                        int kernel_w, int stride_h, int stride_w, int pad_top, int pad_left, int multiplier,
                        int shift, int x_zero_point, int w_zero_point, int out_zero_point, int act_min,
                        int act_max) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(blockIdx.x) * (THREADS / 32) + static_cast<int>(threadIdx.x) / 32;
  if (warp >= elements) return;
  const int element = first + warp % rest;
  const int o = element % out_c;
  const int j = element / out_c % out_w;
  const int i = element / out_c / out_w % out_h;
  const long long image = static_cast<long long>(warp / rest) * images + element / out_c / out_w / out_h;

  int sum = 0;
  for (int kh = 0; kh < kernel_h; ++kh) {
    const int row = i + pad_top - kh;
    if (row < 0 || row % stride_h != 0 || row / stride_h >= in_h) continue;
    for (int kw = 0; kw < kernel_w; ++kw) {
      const int column = j + pad_left - kw;
      if (column < 0 || column % stride_w != 0 || column / stride_w >= in_w) continue;
      const unsigned char* const seen =
          x + (image * x_image_pitch + static_cast<long long>(row / stride_h) * x_row_pitch +
               static_cast<long long>(column / stride_w) * x_pixel_pitch);
      const unsigned char* const tap =
          weights + ((static_cast<long long>(o) * kernel_h + kh) * kernel_w + kw) * in_c;
      for (int c = lane; c < in_c; c += 32) {
        sum = wrapping_add(sum, wrapping_multiply(seen[c] - x_zero_point, tap[c] - w_zero_point));
      }
    }
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum = wrapping_add(sum, shfl_xor_sync(ALL_LANES, sum, distance));
  }
  if (lane != 0) return;
  const Factor factor = {multiplier, shift};
  const int code = clamped_code(wrapping_add(sum, bias[o]), factor, out_zero_point, act_min, act_max);
  y[image * y_image_pitch + static_cast<long long>(i) * y_row_pitch +
    static_cast<long long>(j) * y_pixel_pitch + o] = static_cast<unsigned char>(saturated_code(code));
}
