// CONV_2D as an implicit GEMM on dp4a, requantization fused.
//
//   y[m, o] = clamp(zp_y + requantize(bias[o] + sum_k x[m, k] * w[o, k]))
//
//   m  output pixel of the batch: image * OH * OW + oh * OW + ow
//   o  output channel of a group (blockIdx.z picks group and K split)
//   k  tap and input channel, (kh * KW + kw) * C' + c with C' = channels of a group, padded to whole loads
//
// Layouts. x: NHWC codes with image, row and pixel pitches in bytes. w: (group, O', K') int8, O' a multiple
// of 128, K' of 64, rows and taps padded with 0: it belongs to this algorithm, every tile reads it. y: NHWC
// with pitches.
//
// Zero points leave the loop: bias already holds -zp_x * sum(w) (see gpuq/cuda/epilogue.py), and pixels
// outside the image are read as zp_x. Weights with a zero point of their own (uint8 models) add, per output
// pixel, window_factor * sum_k x[m, k]. Padding of K meets weights 0; for the window sum it is read as 0.
//
// The block's tile, for 256 threads, BM = BN = 128, TM = TN = 8:
//
//          n = 0 .. 63          64 .. 127
//   m 0  +-------------------+-------------------+     a warp covers 4*TM rows and 8*TN columns;
//        | warp 0            | warp 1            |     lane = 8 * lane_m + lane_n;
//   32   +-------------------+-------------------+     a thread's rows:    lane_m + 4 * i,   i < TM
//        | warp 2            | warp 3            |     a thread's columns: 4 * lane_n + j % 4 + 32 * (j / 4),
//        j < TN
//        ...                                           so that 4 neighbours are stored as one word
//
// Shared memory holds BK bytes of K: As[pixel][BK / 16] and Bs[column slot][BK / 16] as int4. Column slots
// are permuted so that at each j the 8 lanes of a row read 8 neighbouring slots, and the int4 of rows and
// slots are swapped (swizzled_a, swizzled_b) so that a read touches all 32 banks once.

#include "epilogue.cuh"

// BM, BN          output pixels and channels of a block: WARPS_M * 4 * TM and WARPS_N * 8 * TN
// TM, TN          of a thread; TN is a multiple of 4
// WARPS_M/_N      warps of a block
// STAGES          tiles of K in shared memory, 2 or more
// MIN_BLOCKS      blocks that share a multiprocessor: bounds the registers of a thread
// BK              bytes of K of a tile, 32 or 64
// VEC             bytes of one load along the channels: 16, 8, 4; 1 loads byte by byte, for any channel count
// WINDOW_SUM      1: the weights have a zero point
// OUTPUT          what is written: OUTPUT_CODES; OUTPUT_PARTIAL, int32 sums without bias, each split of K
// into
//                 its own (pixels, channels) slice of y, for requantize_sums.cu to add up
// and those of epilogue.cuh
#define OUTPUT_CODES 0
#define OUTPUT_PARTIAL 1

#define BM (WARPS_M * 4 * TM)
#define BN (WARPS_N * 8 * TN)
#define THREADS (WARPS_M * WARPS_N * 32)
#define QUADS (BK / 16)

// One load: VEC bytes, or a word put together from single bytes.
#define CHUNK (VEC == 1 ? 4 : VEC)
#define CHUNKS_PER_ROW (BK / CHUNK)
#define ROWS_PER_PASS (THREADS / CHUNKS_PER_ROW)
#define A_PASSES ((BM + ROWS_PER_PASS - 1) / ROWS_PER_PASS)
#define B_PASSES ((BN * QUADS + THREADS - 1) / THREADS)

// Pixel position whose every tap lies outside the image: rows beyond the last pixel.
#define OUTSIDE (-(1 << 28))

// The slot of Bs that holds a column of the tile, and back: within a warp's 8 * TN columns, slot = 8 * j +
// lane_n.
__device__ __forceinline__ int column_of_slot(int slot) {
  const int warp = slot / (8 * TN);
  const int j = slot % (8 * TN) / 8;
  const int lane_n = slot % 8;
  return warp * 8 * TN + 4 * lane_n + j % 4 + 32 * (j / 4);
}

// Where a quad lies in its row of As, in its slot of Bs. The 4 rows of As that a warp reads at once and the 8
// slots of Bs are neighbours: 16 bytes each, they must not meet in a bank. Both depend on the lane alone, for
// a thread's rows are 4 apart and its slots 8.
__device__ __forceinline__ int swizzled_a(int row, int quad) {
  return QUADS == 4 ? quad ^ ((row >> 1) & 1) : quad;
}
__device__ __forceinline__ int swizzled_b(int slot, int quad) {
  return QUADS == 4 ? quad ^ ((slot >> 1) & 3) : quad ^ ((slot >> 2) & 1);
}

// Grid: (pixel tiles, column tiles, groups * splits). Pitches and offsets are bytes of x, and elements of y.
//
// k_table: per load (K' / CHUNK entries) {row offset in the image, column offset, channel, valid channels}; 0
// valid channels mark padding.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    conv2d_igemm_dp4a(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                      int x_pixel_pitch, const int4* __restrict__ weights, const int4* __restrict__ k_table,
                      const int* __restrict__ bias, const Factor* __restrict__ factors, void* __restrict__ y,
                      long long y_image_pitch, int y_row_pitch, int y_pixel_pitch, int pixels, int in_h,
                      int in_w, int group_in_c, int out_h, int out_w, int group_out_c, int padded_out_c,
                      int stride_h, int stride_w, int pad_top, int pad_left, int k_quads, int k_tiles,
                      int tiles_per_split, int splits, long long split_pitch, int x_zero_point,
                      int window_factor, int out_zero_point, int act_min, int act_max,
                      const unsigned char* __restrict__ residual, const int* __restrict__ fused,
                      int vector_store) {
  SHARED(int4, As, [STAGES][BM][QUADS]);
  SHARED(int4, Bs, [STAGES][BN][QUADS]);
  SHARED(long long, y_offsets, [BM]);

  const int thread = static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(blockIdx.z) / splits;
  const int split = static_cast<int>(blockIdx.z) % splits;
  const int first_pixel = static_cast<int>(blockIdx.x) * BM;
  const int first_column = static_cast<int>(blockIdx.y) * BN;
  const int image_pixels = out_h * out_w;

  // Where each row of the tile is written; -1 beyond the last pixel.
  for (int row = thread; row < BM; row += THREADS) {
    const int pixel = first_pixel + row;
    const int image = pixel / image_pixels;
    const int oh = pixel % image_pixels / out_w;
    const int ow = pixel % out_w;
    y_offsets[row] = pixel < pixels ? image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                                          static_cast<long long>(ow) * y_pixel_pitch
                                    : -1;
  }

  // This thread loads the same chunk of K for A_PASSES rows of the tile, and B_PASSES pieces of the weights.
  const int chunk = thread % CHUNKS_PER_ROW;
  const unsigned char*
      row_base[A_PASSES];  // the window's first pixel, perhaps outside the image: not read there
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
             static_cast<long long>(row_iw[pass]) * x_pixel_pitch + group * group_in_c);
  }
  const int zero_point_word = wrapping_multiply(x_zero_point & 0xff, 0x01010101);

  const int first_tile = split * tiles_per_split;
  const int last_tile = first_tile + tiles_per_split < k_tiles ? first_tile + tiles_per_split : k_tiles;

  // Tiles are loaded in order: what to load next is one pointer each, moved along.
  const int4* next_entry = k_table + first_tile * CHUNKS_PER_ROW + chunk;
  const int4* next_weights[B_PASSES];
#pragma unroll
  for (int pass = 0; pass < B_PASSES; ++pass) {
    const int index = thread + pass * THREADS;
    const long long column =
        static_cast<long long>(group) * padded_out_c + first_column + column_of_slot(index / QUADS);
    next_weights[pass] = weights + column * k_quads + first_tile * QUADS + index % QUADS;
  }

  // Starts the loads of the next tile of K into a stage.
  auto load_tile = [&](int stage) {
    const int4 entry = *next_entry;
    next_entry += CHUNKS_PER_ROW;
    const int valid = entry.w;
    const int delta = entry.x * x_row_pitch + entry.y * x_pixel_pitch + entry.z;
#pragma unroll
    for (int pass = 0; pass < A_PASSES; ++pass) {
      const int row = thread / CHUNKS_PER_ROW + pass * ROWS_PER_PASS;
      if (BM % ROWS_PER_PASS != 0 && row >= BM) continue;
      char* const target =
          reinterpret_cast<char*>(&As[stage][row][swizzled_a(row, chunk * CHUNK / 16)]) + chunk * CHUNK % 16;
      const unsigned ih = static_cast<unsigned>(row_ih[pass] + entry.x);
      const unsigned iw = static_cast<unsigned>(row_iw[pass] + entry.y);
      const unsigned char* const source = row_base[pass] + delta;
      if (valid > 0 && ih < static_cast<unsigned>(in_h) && iw < static_cast<unsigned>(in_w)) {
#if VEC == 16
        cp_async_16(target, source);
#elif VEC == 8
        cp_async_8(target, source);
#elif VEC == 4
        cp_async_4(target, source);
#else
        unsigned word = source[0];
        if (valid > 1) word |= static_cast<unsigned>(source[1]) << 8;
        if (valid > 2) word |= static_cast<unsigned>(source[2]) << 16;
        if (valid > 3) word |= static_cast<unsigned>(source[3]) << 24;
        *reinterpret_cast<unsigned*>(target) = word;
#endif
      } else {
        // Outside the image every valid channel is the zero point; padding of K is 0.
        int fill = valid > 0 ? zero_point_word : 0;
#if VEC == 1
        if (valid > 0) fill &= static_cast<int>(0xffffffffu >> (8 * (4 - valid)));
#endif
#pragma unroll
        for (int word = 0; word < CHUNK / 4; ++word) reinterpret_cast<int*>(target)[word] = fill;
      }
    }
#pragma unroll
    for (int pass = 0; pass < B_PASSES; ++pass) {
      const int index = thread + pass * THREADS;
      if (BN * QUADS % THREADS != 0 && index >= BN * QUADS) continue;
      const int slot = index / QUADS;
      cp_async_16(&Bs[stage][slot][swizzled_b(slot, index % QUADS)], next_weights[pass]);
      next_weights[pass] += QUADS;
    }
  };

  const int warp = thread / 32;
  const int lane_m = thread % 32 / 8;
  const int lane_n = thread % 8;
  const int warp_row = warp / WARPS_N * (4 * TM);
  const int warp_slot = warp % WARPS_N * (8 * TN);

  // The thread's columns come four by four; bias and factors are padded as the weights are, so none needs a
  // guard.
  const int thread_column = first_column + warp % WARPS_N * (8 * TN) + 4 * lane_n;
  const int channel = group * padded_out_c + thread_column;

  // Sums start from the bias.
  int acc[TM][TN];
#pragma unroll
  for (int j = 0; j < TN; ++j) {
    const int start = OUTPUT == OUTPUT_PARTIAL ? 0 : bias[channel + j % 4 + 32 * (j / 4)];
#pragma unroll
    for (int i = 0; i < TM; ++i) acc[i][j] = start;
  }
#if WINDOW_SUM
  int window_sum[TM];
#pragma unroll
  for (int i = 0; i < TM; ++i) window_sum[i] = 0;
#endif

  // STAGES - 1 tiles are on their way while one is used. A group is committed per tile, also when there is
  // none left, so that "all but the newest STAGES - 2" always means "the tile that comes next has landed".
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; ++stage) {
    if (first_tile + stage < last_tile) load_tile(stage);
    cp_async_commit();
  }

  int stage = 0;
  for (int tile = first_tile; tile < last_tile; ++tile) {
    cp_async_wait<STAGES - 2>();
    // Everybody's part of this tile is there, and everybody is done with the stage that is loaded next.
    __syncthreads();
    if (tile + STAGES - 1 < last_tile) load_tile(stage == 0 ? STAGES - 1 : stage - 1);
    cp_async_commit();

    // Rows and slots of a thread are constant distances apart: one address each, the rest is in the
    // instructions.
    const int4* const a_quads = &As[stage][warp_row + lane_m][0];
    const int4* const b_quads = &Bs[stage][warp_slot + lane_n][0];
    // Large tiles are not unrolled: with both quads' operands in registers, sums would be spilled.
#pragma unroll(TM* TN > 16 ? 1 : QUADS)
    for (int quad = 0; quad < QUADS; ++quad) {
      int4 a[TM];
#pragma unroll
      for (int i = 0; i < TM; ++i) {
        a[i] = a_quads[4 * i * QUADS + swizzled_a(lane_m, quad)];
#if WINDOW_SUM
        window_sum[i] = add_bytes(a[i].x, window_sum[i]);
        window_sum[i] = add_bytes(a[i].y, window_sum[i]);
        window_sum[i] = add_bytes(a[i].z, window_sum[i]);
        window_sum[i] = add_bytes(a[i].w, window_sum[i]);
#endif
      }
      const int4* const b_quad = b_quads + swizzled_b(lane_n, quad);
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const int4 b = b_quad[8 * j * QUADS];
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = multiply_add(a[i].x, b.x, acc[i][j]);
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = multiply_add(a[i].y, b.y, acc[i][j]);
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = multiply_add(a[i].z, b.z, acc[i][j]);
#pragma unroll
        for (int i = 0; i < TM; ++i) acc[i][j] = multiply_add(a[i].w, b.w, acc[i][j]);
      }
    }
    stage = stage == STAGES - 1 ? 0 : stage + 1;
  }
  cp_async_wait<0>();
  // A block without any tile has not met a barrier since it wrote y_offsets.
  __syncthreads();

  // The epilogue, four neighbouring channels at a time.
#pragma unroll
  for (int j = 0; j < TN; j += 4) {
    const int stored = group_out_c - (thread_column + 8 * j);
    if (stored <= 0) continue;
    const long long column = group * group_out_c + thread_column + 8 * j;
#if OUTPUT == OUTPUT_CODES
    Factor factor[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) factor[c] = factors[channel + 8 * j + c];
#else
    int* const sums_column = static_cast<int*>(y) + split * split_pitch + column;
#endif
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      const long long offset = y_offsets[warp_row + lane_m + 4 * i];
      if (offset < 0) continue;
      int sums[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sums[c] = acc[i][j + c];
#if WINDOW_SUM
        sums[c] = wrapping_add(sums[c], wrapping_multiply(window_factor, window_sum[i]));
#endif
      }
#if OUTPUT == OUTPUT_CODES
      const unsigned codes = codes_of(sums, factor, out_zero_point, act_min, act_max);
      store_codes(static_cast<unsigned char*>(y) + (column + offset),
                  fused_word(codes, residual + (column + offset), stored, vector_store, fused), stored,
                  vector_store);
#else
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (c < stored) sums_column[offset + c] = sums[c];
      }
#endif
    }
  }
}
