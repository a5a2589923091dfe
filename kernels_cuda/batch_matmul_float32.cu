// BATCH_MATMUL of float32, both operands activations perhaps.
//
//   y[m, n] = sum_k a[m, k] * b[k, n]      for each batch; k in order, each product and sum rounded
//
// As in batch_matmul_dp4a.cu a block makes 64 by 64 outputs of one batch, a thread 4 by 4, 16 apart,
// whichever way the operands lie in memory. Sums begin with -0 and end with products of it, which change no
// number: 0 would make 0 of -0.

#include "batch_matmul.cuh"
#include "float32.cuh"

#define BK 16

// Blocks: ((batch * row tiles) + row tile) * column tiles + column tile. Strides in elements; size_0 and the
// first strides are the innermost batch dimension's.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_matmul_float32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y,
                         int rows, int columns, int depth, int row_tiles, int column_tiles, int a_row,
                         int a_step, int b_step, int b_column, int size_0, int size_1, int size_2,
                         long long a_0, long long a_1, long long a_2, long long a_3, long long b_0,
                         long long b_1, long long b_2, long long b_3) {
  SHARED(float, As, [BK][BM + 1]);
  SHARED(float, Bs, [BK][BN + 1]);
  const int thread = static_cast<int>(threadIdx.x);
  const int column_tile = static_cast<int>(blockIdx.x) % column_tiles;
  const int row_tile = static_cast<int>(blockIdx.x) / column_tiles % row_tiles;
  const int batch = static_cast<int>(blockIdx.x) / column_tiles / row_tiles;
  a += batch_offset(batch, size_0, size_1, size_2, a_0, a_1, a_2, a_3);
  b += batch_offset(batch, size_0, size_1, size_2, b_0, b_1, b_2, b_3);

  float sums[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = -0.0f;
  }
  const int own_row = thread / 16;
  const int own_column = thread % 16;

  for (int k0 = 0; k0 < depth; k0 += BK) {
#pragma unroll
    for (int pass = 0; pass < BM * BK / THREADS; ++pass) {
      const int k = k0 + thread % BK;
      const int slot = thread / BK + pass * (THREADS / BK);
      const int row = row_tile * BM + slot;
      const int column = column_tile * BN + slot;
      As[thread % BK][slot] =
          k < depth && row < rows
              ? a[static_cast<long long>(row) * a_row + static_cast<long long>(k) * a_step]
              : -0.0f;
      Bs[thread % BK][slot] =
          k < depth && column < columns
              ? b[static_cast<long long>(column) * b_column + static_cast<long long>(k) * b_step]
              : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < BK; ++step) {
      float own_a[4];
      float own_b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        own_a[i] = As[step][own_row + 16 * i];
        own_b[i] = Bs[step][own_column + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = plus_product(sums[i][j], own_a[i], own_b[j]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row_tile * BM + own_row + 16 * i;
    if (row >= rows) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = column_tile * BN + own_column + 16 * j;
      if (column >= columns) continue;
      y[(static_cast<long long>(batch) * rows + row) * columns + column] = sums[i][j];
    }
  }
}
