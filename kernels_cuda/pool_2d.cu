// AVERAGE_POOL_2D and MAX_POOL_2D of 8-bit codes.
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

#include "portable.cuh"

// AVERAGE      1: AVERAGE_POOL_2D; 0: MAX_POOL_2D
// X_UNSIGNED   1: codes are uint8; 0: int8
// VEC          4: all addresses and the channels are multiples of 4; 1: any
// THREADS      of a block

// Byte c of a word as a code.
__device__ __forceinline__ int code_of(unsigned word, int c) {
#if X_UNSIGNED
  return static_cast<int>(prmt(word, 0, 0x4440 + c));
#else
  return static_cast<int>(prmt(word, 0, 0x8880 + 0x1111 * c));
#endif
}

// Byte c of a word added to a sum, in one instruction.
__device__ __forceinline__ int add_code(int sum, unsigned word, int c) {
#if X_UNSIGNED
  return dp4a_us(word, 1 << (8 * c), sum);
#else
  return dp4a(static_cast<int>(word), 1 << (8 * c), sum);
#endif
}

// The codes of `valid` channels, 4 or fewer.
__device__ __forceinline__ unsigned load_codes(const unsigned char* source, int valid) {
#if VEC == 4
  return *reinterpret_cast<const unsigned*>(source);
#else
  unsigned word = source[0];
  if (valid > 1) word |= static_cast<unsigned>(source[1]) << 8;
  if (valid > 2) word |= static_cast<unsigned>(source[2]) << 16;
  if (valid > 3) word |= static_cast<unsigned>(source[3]) << 24;
  return word;
#endif
}

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
                                  static_cast<long long>(column_begin) * x_pixel_pitch + first);
  int found[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) found[c] = AVERAGE ? 0 : act_min;
#pragma unroll 1
  for (int ih = row_begin; ih < row_end; ++ih) {
    const unsigned char* source = row;
#pragma unroll 4
    for (int iw = column_begin; iw < column_end; ++iw) {
      const unsigned word = load_codes(source, valid);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
#if AVERAGE
        found[c] = add_code(found[c], word, c);
#else
        const int code = code_of(word, c);
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
                                     static_cast<long long>(ow) * y_pixel_pitch + first);
  // Codes within the activation's range lie within a byte: saturation has nothing to do.
#if X_UNSIGNED
  const unsigned word = pack_saturated_u8(codes[0], codes[1], codes[2], codes[3]);
#else
  const unsigned word = pack_saturated_s8(codes[0], codes[1], codes[2], codes[3]);
#endif
#if VEC == 4
  *reinterpret_cast<unsigned*>(target) = word;
#else
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c < valid) target[c] = static_cast<unsigned char>(word >> (8 * c));
  }
#endif
}
