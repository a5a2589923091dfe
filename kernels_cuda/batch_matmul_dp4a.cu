// BATCH_MATMUL of int8 codes, both operands activations perhaps, requantization fused.
//
//   y[m, n] = clamp(zp_y + requantize(sum_k (a[m, k] - zp_a) * (b[k, n] - zp_b)))      for each batch
//           = ... sum a * b - zp_b * sum a - zp_a * sum b + depth * zp_a * zp_b
//
// A block makes 64 by 64 outputs of one batch, a thread 4 by 4, 16 apart. Shared memory holds 32 steps of k,
// four codes along k in a word, whichever way the operands lie in memory. Strides are in bytes; codes beyond
// a matrix are 0, which adds nothing.

#include "batch_matmul.cuh"
#include "epilogue.cuh"

#define WORDS 8

// Four codes along k as a word.
__device__ __forceinline__ int load_word(const unsigned char* source, int k, int depth, int k_stride) {
  unsigned word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (k + i < depth)
      word |= static_cast<unsigned>(source[static_cast<long long>(k + i) * k_stride]) << (8 * i);
  }
  return static_cast<int>(word);
}

// Blocks: ((batch * row tiles) + row tile) * column tiles + column tile. size_0 and the first strides are the
// innermost batch dimension's.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_matmul_dp4a(const unsigned char* __restrict__ a, const unsigned char* __restrict__ b,
                      const Factor* __restrict__ factors, unsigned char* __restrict__ y, int rows,
                      int columns, int depth, int row_tiles, int column_tiles, int a_row, int a_step,
                      int b_step, int b_column, int size_0, int size_1, int size_2, long long a_0,
                      long long a_1, long long a_2, long long a_3, long long b_0, long long b_1,
                      long long b_2, long long b_3, int a_zero_point, int b_zero_point, int out_zero_point,
                      int act_min, int act_max) {
  SHARED(int, As, [WORDS][BM + 1]);
  SHARED(int, Bs, [WORDS][BN + 1]);
  const int thread = static_cast<int>(threadIdx.x);
  const int column_tile = static_cast<int>(blockIdx.x) % column_tiles;
  const int row_tile = static_cast<int>(blockIdx.x) / column_tiles % row_tiles;
  const int batch = static_cast<int>(blockIdx.x) / column_tiles / row_tiles;
  a += batch_offset(batch, size_0, size_1, size_2, a_0, a_1, a_2, a_3);
  b += batch_offset(batch, size_0, size_1, size_2, b_0, b_1, b_2, b_3);

  int sums[4][4];
  int row_sums[4];
  int column_sums[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    row_sums[i] = 0;
    column_sums[i] = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = 0;
  }
  const int own_row = thread / 16;
  const int own_column = thread % 16;

  for (int k0 = 0; k0 < depth; k0 += 4 * WORDS) {
#pragma unroll
    for (int pass = 0; pass < BM * WORDS / THREADS; ++pass) {
      const int index = thread + pass * THREADS;
      const int word = index % WORDS;
      const int slot = index / WORDS;
      const int row = row_tile * BM + slot;
      const int column = column_tile * BN + slot;
      As[word][slot] =
          row < rows ? load_word(a + static_cast<long long>(row) * a_row, k0 + 4 * word, depth, a_step) : 0;
      Bs[word][slot] = column < columns ? load_word(b + static_cast<long long>(column) * b_column,
                                                    k0 + 4 * word, depth, b_step)
                                        : 0;
    }
    __syncthreads();
#pragma unroll
    for (int word = 0; word < WORDS; ++word) {
      int a_words[4];
      int b_words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a_words[i] = As[word][own_row + 16 * i];
        b_words[i] = Bs[word][own_column + 16 * i];
        row_sums[i] = add_bytes(a_words[i], row_sums[i]);
        column_sums[i] = add_bytes(b_words[i], column_sums[i]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = multiply_add(a_words[i], b_words[j], sums[i][j]);
      }
    }
    __syncthreads();
  }

  const Factor factor = factors[0];
  const int zero_points = wrapping_multiply(wrapping_multiply(depth, a_zero_point), b_zero_point);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row_tile * BM + own_row + 16 * i;
    if (row >= rows) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = column_tile * BN + own_column + 16 * j;
      if (column >= columns) continue;
      int sum = wrapping_add(sums[i][j], zero_points);
      sum = wrapping_add(sum, wrapping_multiply(-b_zero_point, row_sums[i]));
      sum = wrapping_add(sum, wrapping_multiply(-a_zero_point, column_sums[j]));
      y[(static_cast<long long>(batch) * rows + row) * columns + column] = static_cast<unsigned char>(
          saturated_code(clamped_code(sum, factor, out_zero_point, act_min, act_max)));
    }
  }
}
