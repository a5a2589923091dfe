// CONV_2D of int16 activations with int8 weights, straight from global memory: few outputs, and
// FULLY_CONNECTED of a vector.
//
//   y[m, o] = clamp(requantize(bias[o] + sum_k x[m, k] * w[o, k]))      as conv2d_igemm_dp2a.cu
//
// LANES_K neighbouring lanes share four neighbouring channels of one pixel; each takes every LANES_K-th load
// along K, and a butterfly of shuffles adds them up.
//
//   thread = ((pixel * groups + group) * quads + quad) * LANES_K + lane      quads: channels of a group / 4
//
// Layouts and packed weights are those of conv2d_igemm_dp2a.cu.

#include "epilogue.cuh"

// LANES_K      lanes of an output: 1, 2, 4, 8, 16 or 32
// THREADS      of a block
// VEC          elements of one load along the channels: 8, 4; 1 loads one by one, for any channel count
// SUM64        1: sums are 64 bits wide
// STORES_SUMS  1: y is the sums themselves, int32; 0: codes
// and those of epilogue.cuh

// One load of x, in words of two elements, and of w, in words of four.
#define CHUNK (VEC == 1 ? 4 : VEC)
#define W_WORDS (CHUNK / 4)

#define OUTPUT_BYTES (STORES_SUMS ? 4 : CODE_BYTES)

#if SUM64
typedef long long Sum;
#else
typedef int Sum;
#endif

#if VEC == 8
typedef int4 XChunk;
typedef int2 WChunk;
#else
typedef uint2 XChunk;
typedef int WChunk;
#endif

#define ALL_LANES 0xffffffffu

__device__ __forceinline__ Sum plus(Sum a, Sum b) {
#if SUM64
  return a + b;
#else
  return wrapping_add(a, b);
#endif
}

__device__ __forceinline__ Sum from_lane_xor(Sum value, int distance) {
#if SUM64
  return word_pair(shfl_xor_sync(ALL_LANES, static_cast<int>(value), distance),
                   shfl_xor_sync(ALL_LANES, upper_word(value), distance));
#else
  return shfl_xor_sync(ALL_LANES, value, distance);
#endif
}

// k_table: per load {row offset in the image, column offset, channel, valid channels}. k_sixteens: of a row
// of weights. columns: groups * quads; outputs: pixels * columns.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_direct_dp2a(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                       int x_pixel_pitch, const int4* __restrict__ weights, const int4* __restrict__ k_table,
                       const Sum* __restrict__ bias, const Factor* __restrict__ factors,
                       unsigned char* __restrict__ y, long long y_image_pitch, int y_row_pitch,
                       int y_pixel_pitch, int pixels, int in_h, int in_w, int group_in_c, int out_h,
                       int out_w, int group_out_c, int padded_out_c, int stride_h, int stride_w, int pad_top,
                       int pad_left, int k_sixteens, int columns, int outputs, int chunks, int act_min,
                       int act_max, int together) {
  const int lane = static_cast<int>(threadIdx.x) % LANES_K;
  // Lanes beyond the last output work on it too, for all lanes of a warp shuffle together; they do not store.
  const long long mine = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) / LANES_K;
  const int output = static_cast<int>(mine < outputs ? mine : outputs - 1);
  const int quads = (group_out_c + 3) / 4;
  const int pixel = output / columns;
  const int column = output % columns;
  const int group = column / quads;
  const int first = 4 * (column % quads);
  const int ow = pixel % out_w;
  const int oh = pixel / out_w % out_h;
  const long long image = pixel / out_w / out_h;

  const int top = oh * stride_h - pad_top;
  const int left = ow * stride_w - pad_left;
  const unsigned char* const window =
      x + (image * x_image_pitch + static_cast<long long>(top) * x_row_pitch +
           static_cast<long long>(left) * x_pixel_pitch + CODE_BYTES * group * group_in_c);
  const int channel = group * padded_out_c + first;
  const WChunk* row[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    row[c] = reinterpret_cast<const WChunk*>(weights + static_cast<long long>(channel + c) * k_sixteens);
  }

  // A load's products fit an int32: each is at most 2^22.
  Sum sums[4] = {0, 0, 0, 0};
#pragma unroll 2
  for (int chunk = lane; chunk < chunks; chunk += LANES_K) {
    const int4 entry = k_table[chunk];
    if (static_cast<unsigned>(top + entry.x) >= static_cast<unsigned>(in_h) ||
        static_cast<unsigned>(left + entry.y) >= static_cast<unsigned>(in_w)) {
      continue;
    }
    const unsigned char* const source =
        window + (entry.x * x_row_pitch + entry.y * x_pixel_pitch + CODE_BYTES * entry.z);
#if VEC == 1
    const XChunk codes = load_codes(source, entry.w, false);
#else
    const XChunk codes = *reinterpret_cast<const XChunk*>(source);
#endif
    const int* const words = reinterpret_cast<const int*>(&codes);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const WChunk w = row[c][chunk];
      int sum = 0;
#pragma unroll
      for (int i = 0; i < W_WORDS; ++i) {
        sum = dp2a_lo(words[2 * i], reinterpret_cast<const int*>(&w)[i], sum);
        sum = dp2a_hi(words[2 * i + 1], reinterpret_cast<const int*>(&w)[i], sum);
      }
      sums[c] = plus(sums[c], sum);
    }
  }

#pragma unroll
  for (int distance = LANES_K / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[c] = plus(sums[c], from_lane_xor(sums[c], distance));
  }
  if (lane != 0 || mine >= outputs) return;

#pragma unroll
  for (int c = 0; c < 4; ++c) sums[c] = plus(sums[c], bias[channel + c]);
  const int stored = group_out_c - first;
  unsigned char* const target =
      y + (image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
           static_cast<long long>(ow) * y_pixel_pitch + OUTPUT_BYTES * (group * group_out_c + first));
#if STORES_SUMS
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c < stored) reinterpret_cast<int*>(target)[c] = static_cast<int>(sums[c]);
  }
#else
  Factor factor[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) factor[c] = factors[channel + c];
  store_codes(target, codes_of(sums, factor, 0, act_min, act_max), stored, together);
#endif
}
