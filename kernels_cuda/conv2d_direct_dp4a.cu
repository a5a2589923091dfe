// CONV_2D straight from global memory, for launches with few outputs: small networks, batch 1, and
// FULLY_CONNECTED of a vector, which is the convolution of one pixel by one tap.
//
//   y[m, o] = clamp(zp_y + requantize(bias[o] + sum_k x[m, k] * w[o, k]))      as conv2d_igemm_dp4a.cu
//
// No shared memory and no barrier: what a tile would cost to fill is more than these layers take. LANES_K
// neighbouring lanes share four neighbouring channels of one pixel; each takes every LANES_K-th load along K,
// so that a row of weights is read in one piece, and a butterfly of shuffles adds them up.
//
//   thread = ((pixel * groups + group) * quads + quad) * LANES_K + lane      quads: channels of a group / 4
//
// Layouts and packed weights are those of conv2d_igemm_dp4a.cu.

#include "epilogue.cuh"

// LANES_K      lanes of an output: 1, 2, 4, 8, 16 or 32
// THREADS      of a block
// VEC          bytes of one load along the channels: 16, 8, 4; 1 loads byte by byte, for any channel count
// WINDOW_SUM   1: the weights have a zero point
// and those of epilogue.cuh

#if VEC == 16
typedef int4 Chunk;
#elif VEC == 8
typedef int2 Chunk;
#else
typedef int Chunk;
#endif
#define WORDS (static_cast<int>(sizeof(Chunk)) / 4)

#define ALL_LANES 0xffffffffu

// One chunk of x as words; `valid` bytes of it are channels, which only single bytes ask about.
__device__ __forceinline__ void load_chunk(int words[WORDS], const unsigned char* source, int valid) {
#if VEC == 1
  unsigned word = source[0];
  if (valid > 1) word |= static_cast<unsigned>(source[1]) << 8;
  if (valid > 2) word |= static_cast<unsigned>(source[2]) << 16;
  if (valid > 3) word |= static_cast<unsigned>(source[3]) << 24;
  words[0] = static_cast<int>(word);
#else
  const Chunk chunk = *reinterpret_cast<const Chunk*>(source);
#pragma unroll
  for (int i = 0; i < WORDS; ++i) words[i] = reinterpret_cast<const int*>(&chunk)[i];
#endif
}

// k_table: per load {row offset in the image, column offset, channel, valid channels}. k_quads: 16-byte
// pieces of a row of weights. columns: groups * quads; outputs: pixels * columns. 5 blocks share a
// multiprocessor: left to itself, the compiler takes so few registers that some kinds spill.
extern "C" __global__ void __launch_bounds__(THREADS, 5)
    conv2d_direct_dp4a(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                       int x_pixel_pitch, const int4* __restrict__ weights, const int4* __restrict__ k_table,
                       const int* __restrict__ bias, const Factor* __restrict__ factors,
                       unsigned char* __restrict__ y, long long y_image_pitch, int y_row_pitch,
                       int y_pixel_pitch, int pixels, int in_h, int in_w, int group_in_c, int out_h,
                       int out_w, int group_out_c, int padded_out_c, int stride_h, int stride_w, int pad_top,
                       int pad_left, int k_quads, int columns, int outputs, int chunks, int x_zero_point,
                       int window_factor, int out_zero_point, int act_min, int act_max,
                       const unsigned char* __restrict__ residual, const int* __restrict__ fused,
                       int vector_store) {
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
  const unsigned char* const window = x + (image * x_image_pitch + static_cast<long long>(top) * x_row_pitch +
                                           static_cast<long long>(left) * x_pixel_pitch + group * group_in_c);
  const int channel = group * padded_out_c + first;
  const Chunk* row[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    row[c] = reinterpret_cast<const Chunk*>(weights + static_cast<long long>(channel + c) * k_quads);
  }
  const int zero_point_word = wrapping_multiply(x_zero_point & 0xff, 0x01010101);

  int sums[4] = {0, 0, 0, 0};
#if WINDOW_SUM
  int window_sum = 0;
#endif
#pragma unroll 2
  for (int chunk = lane; chunk < chunks; chunk += LANES_K) {
    const int4 entry = k_table[chunk];
    int words[WORDS];
    if (static_cast<unsigned>(top + entry.x) < static_cast<unsigned>(in_h) &&
        static_cast<unsigned>(left + entry.y) < static_cast<unsigned>(in_w)) {
      load_chunk(words, window + (entry.x * x_row_pitch + entry.y * x_pixel_pitch + entry.z), entry.w);
    } else {
      // Outside the image every valid channel is the zero point.
      int fill = zero_point_word;
#if VEC == 1
      fill &= static_cast<int>(0xffffffffu >> (8 * (4 - entry.w)));
#endif
#pragma unroll
      for (int i = 0; i < WORDS; ++i) words[i] = fill;
    }
#if WINDOW_SUM
#pragma unroll
    for (int i = 0; i < WORDS; ++i) window_sum = add_bytes(words[i], window_sum);
#endif
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const Chunk w = row[c][chunk];
#pragma unroll
      for (int i = 0; i < WORDS; ++i) {
        sums[c] = multiply_add(words[i], reinterpret_cast<const int*>(&w)[i], sums[c]);
      }
    }
  }

#pragma unroll
  for (int distance = LANES_K / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[c] = wrapping_add(sums[c], shfl_xor_sync(ALL_LANES, sums[c], distance));
#if WINDOW_SUM
    window_sum = wrapping_add(window_sum, shfl_xor_sync(ALL_LANES, window_sum, distance));
#endif
  }
  if (lane != 0 || mine >= outputs) return;

  Factor factor[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    factor[c] = factors[channel + c];
    sums[c] = wrapping_add(sums[c], bias[channel + c]);
#if WINDOW_SUM
    sums[c] = wrapping_add(sums[c], wrapping_multiply(window_factor, window_sum));
#endif
  }
  const long long offset = image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                           static_cast<long long>(ow) * y_pixel_pitch + group * group_out_c + first;
  const int stored = group_out_c - first;
  const unsigned codes = codes_of(sums, factor, out_zero_point, act_min, act_max);
  store_codes(y + offset, fused_word(codes, residual + offset, stored, vector_store, fused), stored,
              vector_store);
}
