// CONV_2D of int16 activations with int8 weights as an implicit GEMM on dp2a, requantization fused.
//
//   y[m, o] = clamp(requantize(bias[o] + sum_k x[m, k] * w[o, k]))      m, o, k as in conv2d_igemm_dp4a.cu
//
// Layouts. x: NHWC codes with image, row and pixel pitches in bytes. w: conv2d_igemm_dp4a.cu's, (group, O',
// K') int8. y: NHWC with pitches. Activations and weights have no zero points: pixels outside the image and
// padding of K are 0.
//
// A product has at most 2^22, so that 256 of them fit an int32. Where a whole sum may leave it (SUM64), int32
// sums are added to 64-bit ones every 256 elements of K; where packing has proven that it does not, or the
// runtime's own sums wrap, int32 is all there is.
//
// Tiles are shared out as in conv2d_igemm_dp4a.cu: a warp has 4 * TM pixels and 8 * TN channels, a thread the
// pixels lane_m + 4 * i and the channels 4 * lane_n + j % 4 + 32 * (j / 4). Shared memory holds BK elements
// of K: As[pixel] as eights of int16, Bs[column slot] as eights of int8, swapped (swizzled_a, swizzled_b) so
// that a read touches every bank once.

#include "epilogue.cuh"

// TM, TN          pixels and channels of a thread; TN is a multiple of 4
// WARPS_M/_N      warps of a block
// STAGES          tiles of K in shared memory, 2 or more
// MIN_BLOCKS      blocks that share a multiprocessor: bounds the registers of a thread
// VEC             elements of one load along the channels: 8, 4; 1 loads one by one, for any channel count
// SUM64           1: sums are 64 bits wide
// STORES_SUMS     1: y is the sums themselves, int32; 0: codes
// and those of epilogue.cuh

#define BM (WARPS_M * 4 * TM)
#define BN (WARPS_N * 8 * TN)
#define BK 32
#define THREADS (WARPS_M * WARPS_N * 32)
#define EIGHTS (BK / 8)

// One load of x: VEC elements, or four put together one by one.
#define CHUNK (VEC == 1 ? 4 : VEC)
#define CHUNKS_PER_ROW (BK / CHUNK)
#define ROWS_PER_PASS (THREADS / CHUNKS_PER_ROW)
#define A_PASSES ((BM + ROWS_PER_PASS - 1) / ROWS_PER_PASS)

// Loads of w are 16 elements.
#define SIXTEENS (BK / 16)
#define B_PASSES ((BN * SIXTEENS + THREADS - 1) / THREADS)

// Tiles whose sums fit an int32.
#define TILES_PER_FOLD (256 / BK)

// Pixel position whose every tap lies outside the image: rows beyond the last pixel.
#define OUTSIDE (-(1 << 28))

#define OUTPUT_BYTES (STORES_SUMS ? 4 : CODE_BYTES)

#if SUM64
typedef long long Sum;
#else
typedef int Sum;
#endif

// The column of the tile that a slot of Bs holds: within a warp's 8 * TN columns, slot = 8 * j + lane_n.
__device__ __forceinline__ int column_of_slot(int slot) {
  const int warp = slot / (8 * TN);
  const int j = slot % (8 * TN) / 8;
  const int lane_n = slot % 8;
  return warp * 8 * TN + 4 * lane_n + j % 4 + 32 * (j / 4);
}

// Where an eight lies in its row of As, and a sixteen in its slot of Bs; both depend on the lane alone.
__device__ __forceinline__ int swizzled_a(int row, int eight) { return eight ^ ((row >> 1) & 1); }
__device__ __forceinline__ int swizzled_b(int slot, int sixteen) { return sixteen ^ ((slot >> 2) & 1); }

// Grid: (pixel tiles, column tiles, groups). Pitches are bytes. k_table: per load (K' / CHUNK entries) {row
// offset in the image, column offset, channel, valid channels}; 0 valid channels mark padding. k_sixteens: of
// a row of weights.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    conv2d_igemm_dp2a(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                      int x_pixel_pitch, const int4* __restrict__ weights, const int4* __restrict__ k_table,
                      const Sum* __restrict__ bias, const Factor* __restrict__ factors,
                      unsigned char* __restrict__ y, long long y_image_pitch, int y_row_pitch,
                      int y_pixel_pitch, int pixels, int in_h, int in_w, int group_in_c, int out_h, int out_w,
                      int group_out_c, int padded_out_c, int stride_h, int stride_w, int pad_top,
                      int pad_left, int k_sixteens, int k_tiles, int act_min, int act_max, int together) {
  SHARED(int4, As, [STAGES][BM][EIGHTS]);
  SHARED(int2, Bs, [STAGES][BN][EIGHTS]);
  SHARED(long long, y_offsets, [BM]);

  const int thread = static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(blockIdx.z);
  const int first_pixel = static_cast<int>(blockIdx.x) * BM;
  const int first_column = static_cast<int>(blockIdx.y) * BN;
  const int image_pixels = out_h * out_w;

  // Where each row of the tile is written; -1 beyond the last pixel.
  for (int row = thread; row < BM; row += THREADS) {
    const int pixel = first_pixel + row;
    const long long image = pixel / image_pixels;
    y_offsets[row] = pixel < pixels ? image * y_image_pitch +
                                          static_cast<long long>(pixel % image_pixels / out_w) * y_row_pitch +
                                          static_cast<long long>(pixel % out_w) * y_pixel_pitch
                                    : -1;
  }

  // What this thread loads: one chunk of K of A_PASSES rows of the tile, and B_PASSES pieces of the weights.
  const int chunk = thread % CHUNKS_PER_ROW;
  const unsigned char* row_base[A_PASSES];  // the window's first pixel, perhaps outside the image
  int row_ih[A_PASSES];
  int row_iw[A_PASSES];
#pragma unroll
  for (int pass = 0; pass < A_PASSES; ++pass) {
    const int pixel = first_pixel + thread / CHUNKS_PER_ROW + pass * ROWS_PER_PASS;
    const int image = pixel / image_pixels;
    const int oh = pixel % image_pixels / out_w;
    const int ow = pixel % out_w;
    row_ih[pass] = pixel < pixels ? oh * stride_h - pad_top : OUTSIDE;
    row_iw[pass] = ow * stride_w - pad_left;
    row_base[pass] =
        x + (image * x_image_pitch + static_cast<long long>(oh * stride_h - pad_top) * x_row_pitch +
             static_cast<long long>(row_iw[pass]) * x_pixel_pitch + CODE_BYTES * group * group_in_c);
  }

  const int4* next_entry = k_table + chunk;
  const int4* next_weights[B_PASSES];
#pragma unroll
  for (int pass = 0; pass < B_PASSES; ++pass) {
    const int index = thread + pass * THREADS;
    const long long column =
        static_cast<long long>(group) * padded_out_c + first_column + column_of_slot(index / SIXTEENS);
    next_weights[pass] = weights + column * k_sixteens + index % SIXTEENS;
  }

  // Starts the loads of the next tile of K into a stage.
  auto load_tile = [&](int stage) {
    const int4 entry = *next_entry;
    next_entry += CHUNKS_PER_ROW;
    const int valid = entry.w;
    const int delta = entry.x * x_row_pitch + entry.y * x_pixel_pitch + CODE_BYTES * entry.z;
#pragma unroll
    for (int pass = 0; pass < A_PASSES; ++pass) {
      const int row = thread / CHUNKS_PER_ROW + pass * ROWS_PER_PASS;
      if (BM % ROWS_PER_PASS != 0 && row >= BM) continue;
      short* const target =
          reinterpret_cast<short*>(&As[stage][row][swizzled_a(row, chunk * CHUNK / 8)]) + chunk * CHUNK % 8;
      const unsigned ih = static_cast<unsigned>(row_ih[pass] + entry.x);
      const unsigned iw = static_cast<unsigned>(row_iw[pass] + entry.y);
      const unsigned char* const source = row_base[pass] + delta;
      if (valid > 0 && ih < static_cast<unsigned>(in_h) && iw < static_cast<unsigned>(in_w)) {
#if VEC == 8
        cp_async_16(target, source);
#elif VEC == 4
        cp_async_8(target, source);
#else
        *reinterpret_cast<uint2*>(target) = load_codes(source, valid, false);
#endif
      } else {
#pragma unroll
        for (int word = 0; word < CHUNK / 2; ++word) reinterpret_cast<int*>(target)[word] = 0;
      }
    }
#pragma unroll
    for (int pass = 0; pass < B_PASSES; ++pass) {
      const int index = thread + pass * THREADS;
      if (BN * SIXTEENS % THREADS != 0 && index >= BN * SIXTEENS) continue;
      const int slot = index / SIXTEENS;
      cp_async_16(&Bs[stage][slot][2 * swizzled_b(slot, index % SIXTEENS)], next_weights[pass]);
      next_weights[pass] += SIXTEENS;
    }
  };

  const int warp = thread / 32;
  const int lane_m = thread % 32 / 8;
  const int lane_n = thread % 8;
  const int warp_row = warp / WARPS_N * (4 * TM);
  const int warp_slot = warp % WARPS_N * (8 * TN);

  // Bias and factors are padded as the weights are: no column needs a guard.
  const int thread_column = first_column + warp % WARPS_N * (8 * TN) + 4 * lane_n;
  const int channel = group * padded_out_c + thread_column;

  int acc[TM][TN];
  Sum total[TM][TN];
#pragma unroll
  for (int j = 0; j < TN; ++j) {
    const Sum start = bias[channel + j % 4 + 32 * (j / 4)];
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      acc[i][j] = 0;
      total[i][j] = start;
    }
  }
  auto fold = [&] {
#pragma unroll
    for (int i = 0; i < TM; ++i) {
#pragma unroll
      for (int j = 0; j < TN; ++j) {
#if SUM64
        total[i][j] += acc[i][j];
#else
        total[i][j] = wrapping_add(total[i][j], acc[i][j]);
#endif
        acc[i][j] = 0;
      }
    }
  };

  // STAGES - 1 tiles are on their way while one is used; a group is committed per tile, also when there is
  // none left.
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; ++stage) {
    if (stage < k_tiles) load_tile(stage);
    cp_async_commit();
  }

  int stage = 0;
  for (int tile = 0; tile < k_tiles; ++tile) {
    cp_async_wait<STAGES - 2>();
    // Everybody's part of this tile is there, and everybody is done with the stage that is loaded next.
    __syncthreads();
    if (tile + STAGES - 1 < k_tiles) load_tile(stage == 0 ? STAGES - 1 : stage - 1);
    cp_async_commit();

    const int4* const a_eights = &As[stage][warp_row + lane_m][0];
    const int2* const b_eights = &Bs[stage][warp_slot + lane_n][0];
#pragma unroll(TM* TN > 16 ? 1 : EIGHTS)
    for (int eight = 0; eight < EIGHTS; ++eight) {
      int4 a[TM];
#pragma unroll
      for (int i = 0; i < TM; ++i) a[i] = a_eights[4 * i * EIGHTS + swizzled_a(lane_m, eight)];
      const int2* const b_eight = b_eights + 2 * swizzled_b(lane_n, eight / 2) + eight % 2;
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const int2 b = b_eight[8 * j * EIGHTS];
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = dp2a_lo(a[i].x, b.x, acc[i][j]);
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = dp2a_hi(a[i].y, b.x, acc[i][j]);
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = dp2a_lo(a[i].z, b.y, acc[i][j]);
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = dp2a_hi(a[i].w, b.y, acc[i][j]);
      }
    }
    if (SUM64 && tile % TILES_PER_FOLD == TILES_PER_FOLD - 1) fold();
    stage = stage == STAGES - 1 ? 0 : stage + 1;
  }
  cp_async_wait<0>();
  fold();

  // The epilogue, four neighbouring channels at a time.
#pragma unroll
  for (int j = 0; j < TN; j += 4) {
    const int stored = group_out_c - (thread_column + 8 * j);
    if (stored <= 0) continue;
    const long long column = OUTPUT_BYTES * (group * group_out_c + thread_column + 8 * j);
#if !STORES_SUMS
    Factor factor[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) factor[c] = factors[channel + 8 * j + c];
#endif
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      const long long offset = y_offsets[warp_row + lane_m + 4 * i];
      if (offset < 0) continue;
      const Sum sums[4] = {total[i][j], total[i][j + 1], total[i][j + 2], total[i][j + 3]};
#if STORES_SUMS
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (c < stored) reinterpret_cast<int*>(y + (column + offset))[c] = static_cast<int>(sums[c]);
      }
#else
      store_codes(y + (column + offset), codes_of(sums, factor, 0, act_min, act_max), stored, together);
#endif
    }
  }
}
