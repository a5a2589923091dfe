// BATCH_MATMUL of int16 codes, the second operand int16 or int8, sums of 64 bits, requantization fused.
//
//   y[m, n] = clamp(requantize(sum_k a[m, k] * b[k, n]))      for each batch; all zero points are 0
//
// A block makes 64 by 64 outputs of one batch, a thread 4 by 4, 16 apart, as batch_matmul_dp4a.cu; no
// instruction sums two products of 16 bits, so each is one IMAD.WIDE. Shared memory holds 32 steps of k, two
// codes along k in a word, whichever way the operands lie in memory. Strides are in codes; codes beyond a
// matrix are 0, which adds nothing.

#include "batch_matmul.cuh"
#include "epilogue.cuh"

// B     type of b's codes: int16_t or int8_t
// and those of epilogue.cuh, of int16 codes

#define WORDS 16

// Two codes along k as a word.
template <class T>
__device__ __forceinline__ int load_word(const T* source, int k, int depth, int k_stride) {
  unsigned word = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (k + i < depth) {
      const int code = source[static_cast<long long>(k + i) * k_stride];
      word |= (static_cast<unsigned>(code) & 0xffffu) << (16 * i);
    }
  }
  return static_cast<int>(word);
}

__device__ __forceinline__ int lower_code(int word) { return static_cast<int>(prmt(word, 0, 0x9910)); }
__device__ __forceinline__ int upper_code(int word) { return word >> 16; }

// Blocks: ((batch * row tiles) + row tile) * column tiles + column tile. size_0 and the first strides are the
// innermost batch dimension's. Two blocks for a multiprocessor leave a thread the registers that 16 sums of
// 64 bits need.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    batch_matmul_int16(const unsigned char* __restrict__ a_bytes, const unsigned char* __restrict__ b_bytes,
                       const Factor* __restrict__ factors, unsigned char* __restrict__ y, int rows,
                       int columns, int depth, int row_tiles, int column_tiles, int a_row, int a_step,
                       int b_step, int b_column, int size_0, int size_1, int size_2, long long a_0,
                       long long a_1, long long a_2, long long a_3, long long b_0, long long b_1,
                       long long b_2, long long b_3) {
  SHARED(int, As, [WORDS][BM + 1]);
  SHARED(int, Bs, [WORDS][BN + 1]);
  const int thread = static_cast<int>(threadIdx.x);
  const int column_tile = static_cast<int>(blockIdx.x) % column_tiles;
  const int row_tile = static_cast<int>(blockIdx.x) / column_tiles % row_tiles;
  const int batch = static_cast<int>(blockIdx.x) / column_tiles / row_tiles;
  const int16_t* a = reinterpret_cast<const int16_t*>(a_bytes);
  const B* b = reinterpret_cast<const B*>(b_bytes);
  a += batch_offset(batch, size_0, size_1, size_2, a_0, a_1, a_2, a_3);
  b += batch_offset(batch, size_0, size_1, size_2, b_0, b_1, b_2, b_3);

  long long sums[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = 0;
  }
  const int own_row = thread / 16;
  const int own_column = thread % 16;

  for (int k0 = 0; k0 < depth; k0 += 2 * WORDS) {
#pragma unroll
    for (int pass = 0; pass < BM * WORDS / THREADS; ++pass) {
      const int index = thread + pass * THREADS;
      const int word = index % WORDS;
      const int slot = index / WORDS;
      const int k = k0 + 2 * word;
      const int row = row_tile * BM + slot;
      const int column = column_tile * BN + slot;
      As[word][slot] = row < rows ? load_word(a + static_cast<long long>(row) * a_row, k, depth, a_step) : 0;
      Bs[word][slot] =
          column < columns ? load_word(b + static_cast<long long>(column) * b_column, k, depth, b_step) : 0;
    }
    __syncthreads();
#pragma unroll 4
    for (int word = 0; word < WORDS; ++word) {
      int a_words[4];
      int b_words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a_words[i] = As[word][own_row + 16 * i];
        b_words[i] = Bs[word][own_column + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[i][j] = mad_wide(lower_code(a_words[i]), lower_code(b_words[j]), sums[i][j]);
          sums[i][j] = mad_wide(upper_code(a_words[i]), upper_code(b_words[j]), sums[i][j]);
        }
      }
    }
    __syncthreads();
  }

  const Factor factor = factors[0];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row_tile * BM + own_row + 16 * i;
    if (row >= rows) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = column_tile * BN + own_column + 16 * j;
      if (column >= columns) continue;
      reinterpret_cast<Code*>(y)[(static_cast<long long>(batch) * rows + row) * columns + column] =
          saturated_code(clamped_code(sums[i][j], factor, 0, 0, 0));
    }
  }
}
