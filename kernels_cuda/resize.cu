// RESIZE_BILINEAR of codes and float32, RESIZE_NEAREST_NEIGHBOR of anything.
//
//   nearest          y[oh, ow] = x[row, column]
//   bilinear         y = (q00*wy0*wx0 + q10*wy1*wx0 + q01*wy0*wx1 + q11*wy1*wx1 +- 2^19) / 2^20, truncated,
//                    weights in 1/1024: int8, int16
//   exact_up         the same sum, ties up
//   q11              weights in 1/2048, int8 and uint8, ties up
//   float32, uint8   y = uint8(the sum in float32, in the order of the reference, + 0.5)
//   by pixel         the same with a pixel's two weights multiplied first
//   values           float32: the sum in float32 itself
//
// Where an output row or column lies on the input, and its weights, depends on the shapes alone: tables made
// on the host. No address is computed in floating point on the GPU.
//
//   x, y   codes or float32, NHWC, channels contiguous
//
// A thread makes COUNT neighbouring channels of one pixel: thread = pixel * chunks + chunk. The nearest pixel
// is copied byte by byte: its channels are bytes.

#include "codes.cuh"

// LINEAR       1: bilinear; 0: nearest
// BLEND        of the bilinear: one of BLEND_*
// VEC          channels of one load and store, of which all addresses and the channels are multiples:
//              16 (nearest alone) or 4; 1: any
// THREADS      of a block
// and those of codes.cuh, which say nothing of float32

#define BLEND_EXACT 0
#define BLEND_EXACT_UP 1
#define BLEND_Q11 2
#define BLEND_F32 3
#define BLEND_F32_PIXEL 4
#define BLEND_VALUES 5

#if LINEAR && BLEND == BLEND_VALUES
#define COUNT 1
#define CHANNEL_BYTES 4
#else
#define COUNT (VEC < 4 ? 4 : VEC)
#define CHANNEL_BYTES (LINEAR ? CODE_BYTES : 1)
#endif

// An output row or column: lower and upper input index, weights of the upper and the lower one (the integer
// ones in 1/1024, the others float32's bits). Of a nearest one the lower index alone.
#if LINEAR
typedef int4 Place;
#else
typedef int Place;
#endif

#if LINEAR
#if BLEND == BLEND_F32 || BLEND == BLEND_F32_PIXEL || BLEND == BLEND_VALUES

// Every product and sum rounded to float32, in the order of the runtimes' expression.
__device__ __forceinline__ float blend_values(float top_left, float bottom_left, float top_right,
                                              float bottom_right, Place row, Place column) {
  const float upper_row = __int_as_float(row.z), lower_row = __int_as_float(row.w);
  const float upper_column = __int_as_float(column.z), lower_column = __int_as_float(column.w);
#if BLEND == BLEND_F32_PIXEL
  float total = __fadd_rn(__fmul_rn(top_left, __fmul_rn(lower_row, lower_column)),
                          __fmul_rn(top_right, __fmul_rn(lower_row, upper_column)));
  total = __fadd_rn(total, __fmul_rn(bottom_left, __fmul_rn(upper_row, lower_column)));
  return __fadd_rn(total, __fmul_rn(bottom_right, __fmul_rn(upper_row, upper_column)));
#else
  float total = __fmul_rn(__fmul_rn(top_left, lower_row), lower_column);
  total = __fadd_rn(total, __fmul_rn(__fmul_rn(bottom_left, upper_row), lower_column));
  total = __fadd_rn(total, __fmul_rn(__fmul_rn(top_right, lower_row), upper_column));
  return __fadd_rn(total, __fmul_rn(__fmul_rn(bottom_right, upper_row), upper_column));
#endif
}

#if BLEND != BLEND_VALUES
__device__ __forceinline__ int blend(int top_left, int bottom_left, int top_right, int bottom_right,
                                     Place row, Place column) {
  const float total = blend_values(__int2float_rn(top_left), __int2float_rn(bottom_left),
                                   __int2float_rn(top_right), __int2float_rn(bottom_right), row, column);
  return __float2int_rz(__fadd_rn(total, 0.5f));
}
#endif

#else

// Beyond the image a weight may leave 0 ... 1024, but then both pixels are one: whatever wraps on the way,
// the sum of the four is 2^20 times a mean of codes: an int32 for bytes, an int64 for int16.
#if X_BITS == 16
typedef long long Total;
typedef unsigned long long Wrapping;
#else
typedef int Total;
typedef unsigned Wrapping;
#endif

__device__ __forceinline__ int blend(int top_left, int bottom_left, int top_right, int bottom_right,
                                     Place row, Place column) {
  const Wrapping left = static_cast<Wrapping>(top_left) * static_cast<Wrapping>(row.w) +
                        static_cast<Wrapping>(bottom_left) * static_cast<Wrapping>(row.z);
  const Wrapping right = static_cast<Wrapping>(top_right) * static_cast<Wrapping>(row.w) +
                         static_cast<Wrapping>(bottom_right) * static_cast<Wrapping>(row.z);
  const Total total =
      static_cast<Total>(left * static_cast<Wrapping>(column.w) + right * static_cast<Wrapping>(column.z));
#if BLEND == BLEND_Q11
  return static_cast<int>((total + (1 << 21)) >> 22);
#elif BLEND == BLEND_EXACT_UP
  return static_cast<int>((total + (1 << 19)) >> 20);
#else
  // Half away from zero, truncated: a shift of the magnitude.
  const int magnitude = static_cast<int>(((total < 0 ? -total : total) + (1 << 19)) >> 20);
  return total < 0 ? -magnitude : magnitude;
#endif
}

#endif

#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    resize(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch, int x_pixel_pitch,
           const Place* __restrict__ rows, const Place* __restrict__ columns, unsigned char* __restrict__ y,
           long long y_image_pitch, int y_row_pitch, int y_pixel_pitch, int threads, int channels, int chunks,
           int out_h, int out_w) {
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int pixel = static_cast<int>(thread) / chunks;
  const int first = COUNT * (static_cast<int>(thread) % chunks);
  const int ow = pixel % out_w;
  const int oh = pixel / out_w % out_h;
  const long long image = pixel / out_w / out_h;
  const Place row = rows[oh];
  const Place column = columns[ow];
  const unsigned char* const source = x + image * x_image_pitch + CHANNEL_BYTES * first;
  unsigned char* const target = y + image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                                static_cast<long long>(ow) * y_pixel_pitch + CHANNEL_BYTES * first;
#if LINEAR
  const unsigned char* const top = source + static_cast<long long>(row.x) * x_row_pitch;
  const unsigned char* const bottom = source + static_cast<long long>(row.y) * x_row_pitch;
  const long long left = static_cast<long long>(column.x) * x_pixel_pitch;
  const long long right = static_cast<long long>(column.y) * x_pixel_pitch;
#if BLEND == BLEND_VALUES
  *reinterpret_cast<float*>(target) = blend_values(
      *reinterpret_cast<const float*>(top + left), *reinterpret_cast<const float*>(bottom + left),
      *reinterpret_cast<const float*>(top + right), *reinterpret_cast<const float*>(bottom + right), row,
      column);
#else
  const int valid = channels - first;
  const Codes top_left = load_codes(top + left, valid, VEC == 4);
  const Codes bottom_left = load_codes(bottom + left, valid, VEC == 4);
  const Codes top_right = load_codes(top + right, valid, VEC == 4);
  const Codes bottom_right = load_codes(bottom + right, valid, VEC == 4);
  int codes[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    codes[c] = blend(code_of(top_left, c), code_of(bottom_left, c), code_of(top_right, c),
                     code_of(bottom_right, c), row, column);
  }
  // A mean of codes is one: saturation has nothing to do.
  store_codes(target, pack_saturated(codes[0], codes[1], codes[2], codes[3]), valid, VEC == 4);
#endif
#else
  const unsigned char* const copied =
      source + static_cast<long long>(row) * x_row_pitch + static_cast<long long>(column) * x_pixel_pitch;
#if VEC == 16
  *reinterpret_cast<int4*>(target) = *reinterpret_cast<const int4*>(copied);
#elif VEC == 4
  *reinterpret_cast<int*>(target) = *reinterpret_cast<const int*>(copied);
#else
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (first + c < channels) target[c] = copied[c];
  }
#endif
#endif
}
