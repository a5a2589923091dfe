// DEPTHWISE_CONV_2D of int16 activations with int8 weights: any window, stride, dilation and channel
// multiplier, on dp2a.
//
//   y[p, o] = clamp(requantize(bias[o] + sum_t x[p, t, o / multiplier] * w[o, t]))
//
// t are the taps of pixel p's window. A thread owns four neighbouring output channels of TILE_W neighbouring
// output columns, and goes through the window four taps at a time: four pixels of four channels become, for
// each channel, two words of two pixels, and take two dp2a.
//
//   thread = ((image * OH + oh) * column_groups + column group) * quads_c + quad of channels
//
// Layouts. x, y: NHWC codes with image, row and pixel pitches in bytes. taps, weights: those of
// depthwise_conv2d_taps_dp4a.cu with one term. bias, factors: padded to whole quads of channels. Pixels
// outside the image are 0.

#include "epilogue.cuh"

// TILE_W       output columns of a thread
// THREADS      of a block
// VEC          4: output and input channels are the same (multiplier 1), four of them are read together; 1:
// one
//              by one, for any multiplier, channel count and alignment
// SUM64        1: sums are 64 bits wide
// STORES_SUMS  1: y is the sums themselves, int32; 0: codes
// and those of epilogue.cuh

#define OUTPUT_BYTES (STORES_SUMS ? 4 : CODE_BYTES)

#if SUM64
typedef long long Sum;
#else
typedef int Sum;
#endif

// items: images * out_h * column_groups * quads_c.
extern "C" __global__ void __launch_bounds__(THREADS)
    depthwise_conv2d_taps_dp2a(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                               int x_pixel_pitch, const int4* __restrict__ weights,
                               const int4* __restrict__ taps, const Sum* __restrict__ bias,
                               const Factor* __restrict__ factors, unsigned char* __restrict__ y,
                               long long y_image_pitch, int y_row_pitch, int y_pixel_pitch, int in_h,
                               int in_w, int channels, int multiplier, int out_h, int out_w, int stride_h,
                               int stride_w, int pad_top, int pad_left, int quads_c, int quads,
                               int column_groups, int items, int act_min, int act_max, int together) {
  const unsigned item = blockIdx.x * THREADS + threadIdx.x;
  if (item >= static_cast<unsigned>(items)) return;
  const int quad_c = static_cast<int>(item % quads_c);
  const unsigned strip = item / quads_c;
  const int first_column = static_cast<int>(strip % column_groups) * TILE_W;
  const unsigned row = strip / column_groups;
  const int oh = static_cast<int>(row % out_h);
  const long long image = row / out_h;

  const int top = oh * stride_h - pad_top;
  const int left = first_column * stride_w - pad_left;
  const int stored_channels = channels * multiplier - 4 * quad_c;
  const unsigned char* const window = x + (image * x_image_pitch + static_cast<long long>(top) * x_row_pitch +
                                           static_cast<long long>(left) * x_pixel_pitch);
#if VEC == 1
  int in_channel[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) in_channel[c] = CODE_BYTES * ((4 * quad_c + c) / multiplier);
#endif

  Sum sums[TILE_W][4];
#pragma unroll
  for (int j = 0; j < TILE_W; ++j) {
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[j][c] = bias[4 * quad_c + c];
  }

  const int4* next_weights = weights + static_cast<long long>(quad_c) * quads;
#pragma unroll 1
  for (int quad = 0; quad < quads; ++quad) {
    const int4 rows = taps[2 * quad];
    const int4 columns = taps[2 * quad + 1];
    const int tap_row[4] = {rows.x, rows.y, rows.z, rows.w};
    const int tap_column[4] = {columns.x, columns.y, columns.z, columns.w};
    uint2 pixels[TILE_W][4];
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
      const bool row_inside = static_cast<unsigned>(top + tap_row[tap]) < static_cast<unsigned>(in_h);
#pragma unroll
      for (int j = 0; j < TILE_W; ++j) {
        pixels[j][tap] = make_uint2(0, 0);
        const int column = tap_column[tap] + j * stride_w;
        if (!row_inside || static_cast<unsigned>(left + column) >= static_cast<unsigned>(in_w)) continue;
        const unsigned char* const pixel = window + (tap_row[tap] * x_row_pitch + column * x_pixel_pitch);
#if VEC == 4
        pixels[j][tap] = load_codes(pixel + 4 * CODE_BYTES * quad_c, 4, true);
#else
        unsigned codes[4] = {0, 0, 0, 0};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          if (c < stored_channels) {
            codes[c] = *reinterpret_cast<const unsigned short*>(pixel + in_channel[c]);
          }
        }
        pixels[j][tap] = make_uint2(codes[1] << 16 | codes[0], codes[3] << 16 | codes[2]);
#endif
      }
    }
    const int4 w = next_weights[quad];
    const int channel_weights[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < TILE_W; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        // Lower halves of the two words, or the upper ones.
        const unsigned selector = c % 2 == 0 ? 0x5410 : 0x7632;
        const unsigned taps01 = c < 2 ? byte_perm(pixels[j][0].x, pixels[j][1].x, selector)
                                      : byte_perm(pixels[j][0].y, pixels[j][1].y, selector);
        const unsigned taps23 = c < 2 ? byte_perm(pixels[j][2].x, pixels[j][3].x, selector)
                                      : byte_perm(pixels[j][2].y, pixels[j][3].y, selector);
        // Four products fit an int32.
        int sum = dp2a_lo(static_cast<int>(taps01), channel_weights[c], 0);
        sum = dp2a_hi(static_cast<int>(taps23), channel_weights[c], sum);
#if SUM64
        sums[j][c] += sum;
#else
        sums[j][c] = wrapping_add(sums[j][c], sum);
#endif
      }
    }
  }

#if !STORES_SUMS
  Factor factor[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) factor[c] = factors[4 * quad_c + c];
#endif
  const long long offset = image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                           static_cast<long long>(first_column) * y_pixel_pitch + 4 * OUTPUT_BYTES * quad_c;
#pragma unroll
  for (int j = 0; j < TILE_W; ++j) {
    if (first_column + j >= out_w) continue;
    unsigned char* const target = y + (offset + static_cast<long long>(j) * y_pixel_pitch);
#if STORES_SUMS
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (c < stored_channels) reinterpret_cast<int*>(target)[c] = static_cast<int>(sums[j][c]);
    }
#else
    store_codes(target, codes_of(sums[j], factor, 0, act_min, act_max), stored_channels, together);
#endif
  }
}
