// RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR of 8-bit codes.
//
//   nearest          y[oh, ow] = x[row, column]
//   bilinear, int8   y = (q00*wy0*wx0 + q10*wy1*wx0 + q01*wy0*wx1 + q11*wy1*wx1 +- 2^19) / 2^20, truncated,
//                    weights in 1/1024
//   bilinear, uint8  y = uint8(the same sum in float32, in the order of the reference, + 0.5)
//   exact_up         int8's sum, ties up
//   q11              weights in 1/2048, int8 and uint8, ties up
//   by pixel         uint8's sum with a pixel's two weights multiplied first
//
// Where an output row or column lies on the input, and its weights, depends on the shapes alone: tables made
// on the host. No address is computed in floating point on the GPU.
//
//   x, y   codes, NHWC, channels contiguous
//
// A thread makes CODES neighbouring channels of one pixel: thread = pixel * chunks + chunk.

#include "portable.cuh"

// LINEAR       1: bilinear; 0: nearest
// BLEND        of the bilinear: one of BLEND_*
// X_UNSIGNED   of the bilinear: 1: codes are uint8; 0: int8
// VEC          bytes of one load and store, of which all addresses and the channels are multiples:
//              16 (nearest alone) or 4; 1: any
// THREADS      of a block

#define BLEND_EXACT 0
#define BLEND_EXACT_UP 1
#define BLEND_Q11 2
#define BLEND_F32 3
#define BLEND_F32_PIXEL 4

#define CODES (VEC < 4 ? 4 : VEC)
#define WORDS (CODES / 4)

#if VEC == 16
typedef int4 Chunk;
#else
typedef int Chunk;
#endif

// An output row or column: lower and upper input index, weights of the upper and the lower one (the integer
// ones in 1/1024, the others float32's bits). Of a nearest one the lower index alone.
#if LINEAR
typedef int4 Place;
#else
typedef int Place;
#endif

// The first `valid` channels of a pixel, CODES or fewer.
__device__ __forceinline__ void load_codes(int words[WORDS], const unsigned char* source, int valid) {
#if VEC > 1
  const Chunk chunk = *reinterpret_cast<const Chunk*>(source);
#pragma unroll
  for (int w = 0; w < WORDS; ++w) words[w] = reinterpret_cast<const int*>(&chunk)[w];
#else
  unsigned word = source[0];
  if (valid > 1) word |= static_cast<unsigned>(source[1]) << 8;
  if (valid > 2) word |= static_cast<unsigned>(source[2]) << 16;
  if (valid > 3) word |= static_cast<unsigned>(source[3]) << 24;
  words[0] = static_cast<int>(word);
#endif
}

#if LINEAR
#if BLEND == BLEND_F32 || BLEND == BLEND_F32_PIXEL

// Every product and sum rounded to float32, in the order of the runtimes' expression.
__device__ __forceinline__ int blend(int top_left, int bottom_left, int top_right, int bottom_right,
                                     Place row, Place column) {
  const float upper_row = __int_as_float(row.z), lower_row = __int_as_float(row.w);
  const float upper_column = __int_as_float(column.z), lower_column = __int_as_float(column.w);
#if BLEND == BLEND_F32_PIXEL
  float total = __fadd_rn(__fmul_rn(__int2float_rn(top_left), __fmul_rn(lower_row, lower_column)),
                          __fmul_rn(__int2float_rn(top_right), __fmul_rn(lower_row, upper_column)));
  total = __fadd_rn(total, __fmul_rn(__int2float_rn(bottom_left), __fmul_rn(upper_row, lower_column)));
  total = __fadd_rn(total, __fmul_rn(__int2float_rn(bottom_right), __fmul_rn(upper_row, upper_column)));
#else
  float total = __fmul_rn(__fmul_rn(__int2float_rn(top_left), lower_row), lower_column);
  total = __fadd_rn(total, __fmul_rn(__fmul_rn(__int2float_rn(bottom_left), upper_row), lower_column));
  total = __fadd_rn(total, __fmul_rn(__fmul_rn(__int2float_rn(top_right), lower_row), upper_column));
  total = __fadd_rn(total, __fmul_rn(__fmul_rn(__int2float_rn(bottom_right), upper_row), upper_column));
#endif
  return __float2int_rz(__fadd_rn(total, 0.5f));
}

#else

// Beyond the image a weight may leave 0 ... 1024, but then both pixels are one: whatever wraps on the way,
// the sum of the four is 2^20 times a mean of codes, an int32.
__device__ __forceinline__ int blend(int top_left, int bottom_left, int top_right, int bottom_right,
                                     Place row, Place column) {
  const unsigned left = static_cast<unsigned>(top_left) * static_cast<unsigned>(row.w) +
                        static_cast<unsigned>(bottom_left) * static_cast<unsigned>(row.z);
  const unsigned right = static_cast<unsigned>(top_right) * static_cast<unsigned>(row.w) +
                         static_cast<unsigned>(bottom_right) * static_cast<unsigned>(row.z);
  const int total =
      static_cast<int>(left * static_cast<unsigned>(column.w) + right * static_cast<unsigned>(column.z));
#if BLEND == BLEND_Q11
  return (total + (1 << 21)) >> 22;
#elif BLEND == BLEND_EXACT_UP
  return (total + (1 << 19)) >> 20;
#else
  // Half away from zero, truncated: a shift of the magnitude.
  const int magnitude = ((total < 0 ? -total : total) + (1 << 19)) >> 20;
  return total < 0 ? -magnitude : magnitude;
#endif
}

#endif

__device__ __forceinline__ int code_of(int word, int c) {
  return static_cast<int>(prmt(word, 0, X_UNSIGNED ? 0x4440 + c : 0x8880 + 0x1111 * c));
}

#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    resize(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch, int x_pixel_pitch,
           const Place* __restrict__ rows, const Place* __restrict__ columns, unsigned char* __restrict__ y,
           long long y_image_pitch, int y_row_pitch, int y_pixel_pitch, int threads, int channels, int chunks,
           int out_h, int out_w) {
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int pixel = static_cast<int>(thread) / chunks;
  const int first = CODES * (static_cast<int>(thread) % chunks);
  const int ow = pixel % out_w;
  const int oh = pixel / out_w % out_h;
  const long long image = pixel / out_w / out_h;
  const int valid = channels - first;
  const Place row = rows[oh];
  const Place column = columns[ow];
  const unsigned char* const source = x + image * x_image_pitch + first;
  int words[WORDS];
#if LINEAR
  const unsigned char* const top = source + static_cast<long long>(row.x) * x_row_pitch;
  const unsigned char* const bottom = source + static_cast<long long>(row.y) * x_row_pitch;
  const long long left = static_cast<long long>(column.x) * x_pixel_pitch;
  const long long right = static_cast<long long>(column.y) * x_pixel_pitch;
  int top_left[WORDS], bottom_left[WORDS], top_right[WORDS], bottom_right[WORDS];
  load_codes(top_left, top + left, valid);
  load_codes(bottom_left, bottom + left, valid);
  load_codes(top_right, top + right, valid);
  load_codes(bottom_right, bottom + right, valid);
#pragma unroll
  for (int w = 0; w < WORDS; ++w) {
    unsigned word = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int code = blend(code_of(top_left[w], c), code_of(bottom_left[w], c), code_of(top_right[w], c),
                             code_of(bottom_right[w], c), row, column);
      word |= (static_cast<unsigned>(code) & 255u) << (8 * c);
    }
    words[w] = static_cast<int>(word);
  }
#else
  const unsigned char* const copied =
      source + static_cast<long long>(row) * x_row_pitch + static_cast<long long>(column) * x_pixel_pitch;
  load_codes(words, copied, valid);
#endif
  unsigned char* const target = y + image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                                static_cast<long long>(ow) * y_pixel_pitch + first;
#if VEC > 1
  Chunk chunk;
#pragma unroll
  for (int w = 0; w < WORDS; ++w) reinterpret_cast<int*>(&chunk)[w] = words[w];
  *reinterpret_cast<Chunk*>(target) = chunk;
#else
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c < valid) target[c] = static_cast<unsigned char>(static_cast<unsigned>(words[0]) >> (8 * c));
  }
#endif
}
