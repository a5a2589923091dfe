// AVERAGE_POOL_2D and MAX_POOL_2D of codes.
//
//   average  y[n, oh, ow, c] = clamp(round(sum x / count)), ties away from zero
//   max      y[n, oh, ow, c] = clamp(max x)
//
// over the pixels of the window that lie inside the image; count is their number. No rescaling: both sides
// mean the same by a code. Every window has a pixel inside.
//
//   x   codes, NHWC, channels contiguous
//   y   codes, NHWC, channels contiguous
//
// A thread makes four neighbouring channels of one pixel: thread = pixel * quads + quad, quads = ceil(C / 4).

#include "codes.cuh"

// AVERAGE      1: AVERAGE_POOL_2D; 0: MAX_POOL_2D
// VEC          4: all addresses and the channels are multiples of 4 codes; 1: any
// THREADS      of a block
// and those of codes.cuh

// round(sum / count), ties away from zero. `inverse` is floor((2^32 - 1) / count): the dividend being below
// 2^31, the product's upper word is the quotient or one less.
__device__ __forceinline__ int rounded_mean(int sum, unsigned count, unsigned inverse) {
  const unsigned dividend = static_cast<unsigned>(sum < 0 ? -sum : sum) + count / 2;
  unsigned quotient = __umulhi(dividend, inverse);
  if (dividend - quotient * count >= count) ++quotient;
  return sum < 0 ? -static_cast<int>(quotient) : static_cast<int>(quotient);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    pool_2d(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch, int x_pixel_pitch,
            unsigned char* __restrict__ y, long long y_image_pitch, int y_row_pitch, int y_pixel_pitch,
            int threads, int in_h, int in_w, int channels, int out_h, int out_w, int kernel_h, int kernel_w,
            int stride_h, int stride_w, int pad_top, int pad_left, int act_min, int act_max) {
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int quads = (channels + 3) / 4;
  const int pixel = static_cast<int>(thread) / quads;
  const int first = 4 * (static_cast<int>(thread) % quads);
  const int ow = pixel % out_w;
  const int oh = pixel / out_w % out_h;
  const long long image = pixel / out_w / out_h;
  const int valid = channels - first;

  // The window's part inside the image.
  const int top = oh * stride_h - pad_top;
  const int left = ow * stride_w - pad_left;
  const int row_begin = top < 0 ? 0 : top;
  const int row_end = top + kernel_h < in_h ? top + kernel_h : in_h;
  const int column_begin = left < 0 ? 0 : left;
  const int column_end = left + kernel_w < in_w ? left + kernel_w : in_w;

  const unsigned char* row = x + (image * x_image_pitch + static_cast<long long>(row_begin) * x_row_pitch +
                                  static_cast<long long>(column_begin) * x_pixel_pitch + CODE_BYTES * first);
  int found[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) found[c] = AVERAGE ? 0 : act_min;
#pragma unroll 1
  for (int ih = row_begin; ih < row_end; ++ih) {
    const unsigned char* source = row;
#pragma unroll 4
    for (int iw = column_begin; iw < column_end; ++iw) {
      const Codes four = load_codes(source, valid, VEC == 4);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#if AVERAGE
        found[c] = add_code(found[c], four, c);
#else
        const int code = code_of(four, c);
        found[c] = code > found[c] ? code : found[c];
#endif
      }
      source += x_pixel_pitch;
    }
    row += x_row_pitch;
  }

#if AVERAGE
  const unsigned count = static_cast<unsigned>((row_end - row_begin) * (column_end - column_begin));
  const unsigned inverse = 0xffffffffu / count;
#endif
  int codes[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
#if AVERAGE
    const int code = rounded_mean(found[c], count, inverse);
    codes[c] = code < act_min ? act_min : code > act_max ? act_max : code;
#else
    codes[c] = found[c] > act_max ? act_max : found[c];  // it began with act_min
#endif
  }
  unsigned char* const target = y + (image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                                     static_cast<long long>(ow) * y_pixel_pitch + CODE_BYTES * first);
  // Codes within the activation's range lie within their type: saturation has nothing to do.
  store_codes(target, pack_saturated(codes[0], codes[1], codes[2], codes[3]), valid, VEC == 4);
}
