// DEPTHWISE_CONV_2D of any window, stride, dilation and channel multiplier on dp4a.
//
//   y[p, o] = clamp(zp_y + requantize(bias[o] + sum_t x[p, t, o / multiplier] * w[o, t]))
//
// t are the taps of pixel p's window. A thread owns four neighbouring output channels, one word, of TILE_W
// neighbouring output columns, and goes through the window four taps at a time: four pixels of four channels
// become, for each channel, one word of its four pixels, and take one dp4a.
//
//   thread = ((image * OH + oh) * column_groups + column group) * words + word
//
// Layouts. x, y: NHWC codes with image, row and pixel pitches in bytes. taps: int4 (quads, 2), the rows of
// four taps in the image, relative to the window's first, then their columns; taps beyond the window's last,
// with weights 0, are in a row far outside of every image. weights: int4 (word, quad, term), component c the
// four taps of channel c of the word. bias, factors: padded to whole words.
//
// Zero points leave the loop as in depthwise_conv2d_rows_dp4a.cu.

#include "epilogue.cuh"

// TILE_W       output columns of a thread
// THREADS      of a block
// MIN_BLOCKS   blocks that share a multiprocessor: leaves enough registers for every kind of layer
// VEC          4: output and input channels are the same (multiplier 1), four of them are read as a word;
//              1: byte by byte, for any multiplier, channel count and alignment
// TERMS        int8 terms of a weight: 1; more for some uint8 weights
// and those of epilogue.cuh

// items: images * out_h * column_groups * words.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) depthwise_conv2d_taps_dp4a(
    const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch, int x_pixel_pitch,
    const int4* __restrict__ weights, const int4* __restrict__ taps, const int4* __restrict__ bias,
    const Factor* __restrict__ factors, unsigned char* __restrict__ y, long long y_image_pitch,
    int y_row_pitch, int y_pixel_pitch, int in_h, int in_w, int channels, int multiplier, int out_h,
    int out_w, int stride_h, int stride_w, int pad_top, int pad_left, int words, int quads, int column_groups,
    int items, int x_zero_point, int out_zero_point, int act_min, int act_max,
    const unsigned char* __restrict__ residual, const int* __restrict__ fused, int vector_store) {
  const unsigned item = blockIdx.x * THREADS + threadIdx.x;
  if (item >= static_cast<unsigned>(items)) return;
  const int word = static_cast<int>(item % words);
  const unsigned strip = item / words;
  const int first_column = static_cast<int>(strip % column_groups) * TILE_W;
  const unsigned row = strip / column_groups;
  const int oh = static_cast<int>(row % out_h);
  const long long image = row / out_h;

  const int top = oh * stride_h - pad_top;
  const int left = first_column * stride_w - pad_left;
  // Output channels of this word, and the input channel of each.
  const int stored_channels = channels * multiplier - 4 * word;
  const unsigned char* const window = x + (image * x_image_pitch + static_cast<long long>(top) * x_row_pitch +
                                           static_cast<long long>(left) * x_pixel_pitch);
#if VEC == 4
  const unsigned char* const window_word = window + 4 * word;
#else
  int in_channel[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) in_channel[c] = (4 * word + c) / multiplier;
#endif
  const unsigned zero_point_word = static_cast<unsigned>(x_zero_point & 0xff) * 0x01010101u;

  int sums[TILE_W][4];
  const int4 start = bias[word];
#pragma unroll
  for (int j = 0; j < TILE_W; ++j) {
    sums[j][0] = start.x;
    sums[j][1] = start.y;
    sums[j][2] = start.z;
    sums[j][3] = start.w;
  }

  const int4* next_weights = weights + static_cast<long long>(word) * quads * TERMS;
#pragma unroll 1
  for (int quad = 0; quad < quads; ++quad) {
    const int4 rows = taps[2 * quad];
    const int4 columns = taps[2 * quad + 1];
    const int tap_row[4] = {rows.x, rows.y, rows.z, rows.w};
    const int tap_column[4] = {columns.x, columns.y, columns.z, columns.w};
    unsigned pixels[TILE_W][4];
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
      const bool row_inside = static_cast<unsigned>(top + tap_row[tap]) < static_cast<unsigned>(in_h);
#pragma unroll
      for (int j = 0; j < TILE_W; ++j) {
        pixels[j][tap] = zero_point_word;
        const int column = tap_column[tap] + j * stride_w;
        if (!row_inside || static_cast<unsigned>(left + column) >= static_cast<unsigned>(in_w)) continue;
        const int pixel = tap_row[tap] * x_row_pitch + column * x_pixel_pitch;
#if VEC == 4
        pixels[j][tap] = *reinterpret_cast<const unsigned*>(window_word + pixel);
#else
        unsigned bytes = window[pixel + in_channel[0]];
        if (stored_channels > 1) bytes |= static_cast<unsigned>(window[pixel + in_channel[1]]) << 8;
        if (stored_channels > 2) bytes |= static_cast<unsigned>(window[pixel + in_channel[2]]) << 16;
        if (stored_channels > 3) bytes |= static_cast<unsigned>(window[pixel + in_channel[3]]) << 24;
        pixels[j][tap] = bytes;
#endif
      }
    }
    int4 w[TERMS];
#pragma unroll
    for (int term = 0; term < TERMS; ++term) w[term] = next_weights[term];
    next_weights += TERMS;
#pragma unroll
    for (int j = 0; j < TILE_W; ++j) {
      // Channels 0 and 1 of two pixels, channels 2 and 3; then four pixels of each channel.
      const unsigned low[2] = {byte_perm(pixels[j][0], pixels[j][1], 0x5140),
                               byte_perm(pixels[j][2], pixels[j][3], 0x5140)};
      const unsigned high[2] = {byte_perm(pixels[j][0], pixels[j][1], 0x7362),
                                byte_perm(pixels[j][2], pixels[j][3], 0x7362)};
      const int channel[4] = {static_cast<int>(byte_perm(low[0], low[1], 0x5410)),
                              static_cast<int>(byte_perm(low[0], low[1], 0x7632)),
                              static_cast<int>(byte_perm(high[0], high[1], 0x5410)),
                              static_cast<int>(byte_perm(high[0], high[1], 0x7632))};
#pragma unroll
      for (int term = 0; term < TERMS; ++term) {
        sums[j][0] = multiply_add(channel[0], w[term].x, sums[j][0]);
        sums[j][1] = multiply_add(channel[1], w[term].y, sums[j][1]);
        sums[j][2] = multiply_add(channel[2], w[term].z, sums[j][2]);
        sums[j][3] = multiply_add(channel[3], w[term].w, sums[j][3]);
      }
    }
  }

  Factor factor[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) factor[c] = factors[4 * word + c];
  const long long offset = image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                           static_cast<long long>(first_column) * y_pixel_pitch + 4 * word;
#pragma unroll
  for (int j = 0; j < TILE_W; ++j) {
    if (first_column + j >= out_w) continue;
    const long long at = offset + static_cast<long long>(j) * y_pixel_pitch;
    const unsigned codes = codes_of(sums[j], factor, out_zero_point, act_min, act_max);
    store_codes(y + at, fused_word(codes, residual + at, stored_channels, vector_store, fused),
                stored_channels, vector_store);
  }
}
