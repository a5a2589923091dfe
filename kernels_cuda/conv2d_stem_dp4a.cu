// CONV_2D with at most 4 input channels on dp4a, the first layer of an image network, requantization fused.
//
//   y[oh, ow, o] = clamp(zp_y + requantize(bias[o] + sum_k x[oh, ow, k] * w[o, k]))
//
//   k  word of 4 bytes: (kh, kwg), where kwg is a group of TAPS_PER_WORD neighbouring kernel columns. Byte
//      t * PADDED_C + c holds channel c at kernel column kwg * TAPS_PER_WORD + t. So one channel fills words
//      with 4 columns, two channels with 2, and of three channels the fourth byte is lost.
//
// Layouts. x: NHWC codes with image, row and pixel pitches in bytes. w: (K, O') words, O' a multiple of 64;
// bytes beyond the kernel's columns, the channels and O are 0. y: NHWC with pitches.
//
// Zero points leave the loop as in conv2d_igemm_dp4a.cu: bias holds -zp_x * sum(w), pixels outside the image
// are read as zp_x, and weights with a zero point of their own add window_factor * sum_k x. A word of x may
// hold pixels that are no taps, and bytes that are no channels: weights of 0 silence them, and a mask of ones
// silences them in the window's sum.
//
// A block computes BH x BW pixels of one image by BN channels. It stages the pixels that they see once:
//
//   patch[row][slot], a word each; row r is input row first_oh * stride_h - pad_top + r, and the slots are
//
//     phase 0: columns 0, s, 2s, ...  | phase 1: columns p1, p1 + s, ...  | ...        s = stride_w
//
//   A kernel column that lies d columns to the right is phase d % s and d / s slots on, so that neighbouring
//   output pixels are neighbouring words at any stride: lanes never meet in a bank, and a thread's pixels are
//   constants apart. Phases that no kernel column asks for are not there. `places` says what each word of the
//   patch holds, `taps` where each k begins.
//
// Who computes what; a warp of 8x16x32, LANES_M = 8, LANES_N = 4, TM_W = 2, TM_H = 4, TN = 8:
//
//   pixels:  ow   0 .. 7        8 .. 15            channels:   0 .. 7    8 .. 15   16 .. 23   24 .. 31
//     row 0  | lane_m 0 .. 7 | lane_m 0 .. 7 |               | lane_n 0 | lane_n 1 | lane_n 2 | lane_n 3 |
//     row 1  | the same      | the same      |
//     row 2  | ...                                         lane = LANES_N * lane_m + lane_n
//     row 3  | ...                                         warps lie below each other, TM_H rows each
//
// A thread's channels are neighbours, stored as 8 bytes. In shared memory each row of weights has the lower
// quads of all lanes before the upper ones, so that the lanes of a 16-byte load read neighbours.

#include "epilogue.cuh"

// LANES_N         lanes of a warp along the channels; the others are LANES_M neighbouring pixels of a row
// TM_W, TM_H      pixels of a thread: TM_W of a row, LANES_M apart, in TM_H neighbouring rows
// TN              channels of a thread, 4 or 8
// WARPS           of a block, one below the other
// MIN_BLOCKS      blocks that share a multiprocessor: bounds the registers of a thread
// FILL            words of the patch that a thread loads at once
// IN_C            input channels, 1 to 4
// VEC             bytes of one load: IN_C where pixels are aligned to it (2, 4); 1 loads byte by byte
// WINDOW_SUM      1: the weights have a zero point
// and those of epilogue.cuh

#define LANES_M (32 / LANES_N)
#define TM (TM_W * TM_H)
#define BW (LANES_M * TM_W)
#define BH (WARPS * TM_H)
#define BN (LANES_N * TN)
#define THREADS (WARPS * 32)
#define QUADS (TN / 4)
#define ROW_QUADS (BN / 4)

#define PADDED_C (IN_C == 3 ? 4 : IN_C)
#define TAPS_PER_WORD (4 / PADDED_C)

// The channels of one pixel, the first in the lowest byte.
__device__ __forceinline__ unsigned load_pixel(const unsigned char* source) {
#if VEC == 4
  return *reinterpret_cast<const unsigned*>(source);
#elif VEC == 2
  return *reinterpret_cast<const uint16_t*>(source);
#else
  unsigned pixel = source[0];
#pragma unroll
  for (int c = 1; c < IN_C; ++c) pixel |= static_cast<unsigned>(source[c]) << (8 * c);
  return pixel;
#endif
}

// Grid: (patches of an image * images, channel tiles). Pitches are bytes.
//
// taps: per k {where it begins in the patch, in bytes, mask of its valid bytes}, and one entry more. places:
// per word of the patch {row, column}, relative to the first input pixel of the block; their count,
// patch_words, is a multiple of FILL * THREADS. Dynamic shared memory: weights, taps, patch.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    conv2d_stem_dp4a(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                     int x_pixel_pitch, const int4* __restrict__ weights, const int2* __restrict__ taps,
                     const int2* __restrict__ places, const int* __restrict__ bias,
                     const Factor* __restrict__ factors, unsigned char* __restrict__ y,
                     long long y_image_pitch, int y_row_pitch, int y_pixel_pitch, int in_h, int in_w,
                     int out_h, int out_w, int out_c, int padded_out_c, int stride_h, int stride_w,
                     int dilation_w, int pad_top, int pad_left, int words, int patch_words, int row_words,
                     unsigned patches_w, unsigned patches, int x_zero_point, int window_factor,
                     int out_zero_point, int act_min, int act_max, const unsigned char* __restrict__ residual,
                     const int* __restrict__ fused, int vector_store) {
  DYNAMIC_SHARED(int4, shared_weights);
  int2* const shared_taps = reinterpret_cast<int2*>(shared_weights + words * ROW_QUADS);
  int* const patch = reinterpret_cast<int*>(shared_taps + words + 1);

  const int thread = static_cast<int>(threadIdx.x);
  const unsigned image = blockIdx.x / patches;
  const unsigned image_patch = blockIdx.x % patches;
  const int first_oh = static_cast<int>(image_patch / patches_w) * BH;
  const int first_ow = static_cast<int>(image_patch % patches_w) * BW;
  const int first_channel = static_cast<int>(blockIdx.y) * BN;

  // The weights are on their way while the patch is put together. A thread keeps its quad of channels.
  {
    const int quad = static_cast<int>(threadIdx.x % ROW_QUADS);
    const int first_k = static_cast<int>(threadIdx.x / ROW_QUADS);
    const int4* source =
        weights + (static_cast<long long>(first_k) * (padded_out_c / 4) + first_channel / 4 + quad);
    int4* const target = shared_weights + (quad % QUADS * LANES_N + quad / QUADS);
#pragma unroll 1
    for (int k = first_k; k < words; k += THREADS / ROW_QUADS) {
      cp_async_16(target + k * ROW_QUADS, source);
      source += static_cast<long long>(THREADS / ROW_QUADS) * (padded_out_c / 4);
    }
#pragma unroll 1
    for (int k = thread; k <= words; k += THREADS) cp_async_8(shared_taps + k, taps + k);
    cp_async_commit();
  }

  // The patch, word after word: neighbouring threads write neighbouring words. FILL words at a time, whose
  // loads are under way together; places are padded, so that the last turn needs no guard.
  const int first_ih = first_oh * stride_h - pad_top;
  const int first_iw = first_ow * stride_w - pad_left;
  // Of x; perhaps outside the image, and not read there.
  const long long origin =
      mad_wide(first_iw, x_pixel_pitch, mad_wide(first_ih, x_row_pitch, image * x_image_pitch));
  const unsigned zero_point_pixel =
      static_cast<unsigned>(wrapping_multiply(x_zero_point & 0xff, 0x01010101)) >> (32 - 8 * PADDED_C);
#pragma unroll 1
  for (int index = thread; index < patch_words; index += FILL * THREADS) {
    unsigned word[FILL];
#pragma unroll
    for (int i = 0; i < FILL; ++i) {
      const int2 place = places[index + i * THREADS];
      const bool row_inside = static_cast<unsigned>(first_ih + place.x) < static_cast<unsigned>(in_h);
      const long long row = mad_wide(place.x, x_row_pitch, origin);
      word[i] = 0;
#pragma unroll
      for (int t = 0; t < TAPS_PER_WORD; ++t) {
        const int column = place.y + t * dilation_w;
        unsigned pixel = zero_point_pixel;
        if (row_inside && static_cast<unsigned>(first_iw + column) < static_cast<unsigned>(in_w)) {
          pixel = load_pixel(x + mad_wide(column, x_pixel_pitch, row));
        }
        word[i] |= pixel << (8 * PADDED_C * t);
      }
    }
#pragma unroll
    for (int i = 0; i < FILL; ++i) patch[index + i * THREADS] = static_cast<int>(word[i]);
  }

  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane_m = static_cast<int>(threadIdx.x % 32 / LANES_N);
  const int lane_n = static_cast<int>(threadIdx.x % LANES_N);
  // Bias and factors are padded as the weights are, so none needs a guard.
  const int channel = first_channel + lane_n * TN;

  int start[TN];
#pragma unroll
  for (int j = 0; j < TN; ++j) start[j] = bias[channel + j];

  cp_async_wait<0>();
  __syncthreads();

  // Bytes, as in the table.
  const int row_step = stride_h * row_words * 4;
  const char* const pixels = reinterpret_cast<const char*>(patch + lane_m) + warp * TM_H * row_step;
  const int4* quads = shared_weights + lane_n;
  const int2* taps_left = shared_taps;
  int2 tap = *taps_left;
  int acc[TM][TN];
#if WINDOW_SUM
  int window_sum[TM];
#endif

  // The first word starts the sums: from the bias, with no copies of it.
  auto add_word = [&](bool first) {
    int a[TM];
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      a[i] = *reinterpret_cast<const int*>(pixels + (tap.x + i / TM_W * row_step) + i % TM_W * LANES_M * 4);
    }
#if WINDOW_SUM
#pragma unroll
    for (int i = 0; i < TM; ++i) window_sum[i] = multiply_add(a[i], tap.y, first ? 0 : window_sum[i]);
#endif
    // The next address is there before the next turn needs it; behind the last tap there is one entry more.
    tap = *++taps_left;
#pragma unroll
    for (int quad = 0; quad < QUADS; ++quad) {
      const int4 b = quads[quad * LANES_N];
      const int w[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int j = 4 * quad + c;
          acc[i][j] = multiply_add(a[i], w[c], first ? start[j] : acc[i][j]);
        }
      }
    }
    quads += ROW_QUADS;
  };
  add_word(true);
  // Small tiles have registers for the operands of two words at once; large ones would spill sums.
#pragma unroll(TM* TN > 16 ? 1 : 2)
  for (int k = 1; k < words; ++k) add_word(false);

  // The epilogue: four neighbouring channels of all pixels, then the next four, so that few factors are in
  // registers at once.
  unsigned codes[TM][QUADS];
#pragma unroll
  for (int quad = 0; quad < QUADS; ++quad) {
    Factor factor[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) factor[c] = factors[channel + 4 * quad + c];
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      int sums[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sums[c] = acc[i][4 * quad + c];
#if WINDOW_SUM
        sums[c] = wrapping_add(sums[c], wrapping_multiply(window_factor, window_sum[i]));
#endif
      }
      codes[i][quad] = codes_of(sums, factor, out_zero_point, act_min, act_max);
    }
  }

  const int stored = out_c - channel;
  const int oh = first_oh + warp * TM_H;
  const int ow = first_ow + lane_m;
  const long long first_offset = image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                                 static_cast<long long>(ow) * y_pixel_pitch + channel;
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    if (stored <= 0 || oh + i / TM_W >= out_h || ow + i % TM_W * LANES_M >= out_w) continue;
    const long long offset = first_offset + static_cast<long long>(i / TM_W) * y_row_pitch +
                             static_cast<long long>(i % TM_W * LANES_M) * y_pixel_pitch;
#if TN == 8
    if (vector_store == 8) {
      const unsigned low = fused_word(codes[i][0], residual + offset, 4, true, fused);
      const unsigned high = fused_word(codes[i][1], residual + offset + 4, 4, true, fused);
      *reinterpret_cast<uint2*>(y + offset) = make_uint2(low, high);
      continue;
    }
#endif
#pragma unroll
    for (int quad = 0; quad < QUADS; ++quad) {
      const int count = stored - 4 * quad;
      if (count <= 0) continue;
      const long long at = offset + 4 * quad;
      store_codes(y + at, fused_word(codes[i][quad], residual + at, count, vector_store >= 4, fused), count,
                  vector_store >= 4);
    }
  }
}
