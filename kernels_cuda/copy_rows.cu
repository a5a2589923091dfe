// PAD, and one input of a CONCATENATION: codes copied into a box of the output.
//
//   y[o] = x[o - before]      where 0 <= o - before < size in every dimension
//   y[o] = fill               elsewhere (with FRAME; without it every o is inside)
//
// x's code may go through a table of 256, by its byte: inputs of a concatenation that are quantized
// otherwise. Tensors are walked as rows of neighbouring codes, a row for each index of up to 6 outer
// dimensions; strides are in bytes. A thread writes CODES neighbouring codes of a row.

#include "portable.cuh"

// FRAME        1: PAD; 0: nothing is filled
// INSIDE       0: only the frame is written, what it frames is there already; 1: all
// TABLE        1: codes go through the table
// DIMENSIONS   outer dimensions that are walked, 0 to 6; the others have size 1
// VEC          bytes of one store, 16 or 4, of which all addresses of y are multiples; 1: any address
// X_VEC        VEC if the addresses of x are multiples of it too, wherever VEC codes are read; 1: any address
// THREADS      of a block

#define CODES (VEC < 4 ? 4 : VEC)
#define WORDS (CODES / 4)

#if VEC == 16
typedef int4 Chunk;
#else
typedef int Chunk;
#endif

// row: codes of a row of y. chunks: ceil(row / CODES). Dimension 0 is the innermost of the outer ones;
// row_before and row_inside are a row's `before` and `size`.
extern "C" __global__ void __launch_bounds__(THREADS)
    copy_rows(const unsigned char* __restrict__ x, const unsigned* __restrict__ table,
              unsigned char* __restrict__ y, int threads, int row, int chunks, int row_before, int row_inside,
              int size_0, int size_1, int size_2, int size_3, int size_4, int before_0, int before_1,
              int before_2, int before_3, int before_4, int before_5, int inside_0, int inside_1,
              int inside_2, int inside_3, int inside_4, int inside_5, long long x_0, long long x_1,
              long long x_2, long long x_3, long long x_4, long long x_5, long long y_0, long long y_1,
              long long y_2, long long y_3, long long y_4, long long y_5, int fill) {
#if TABLE
  SHARED(unsigned, mapped, [64]);
  if (threadIdx.x < 64) mapped[threadIdx.x] = table[threadIdx.x];
  __syncthreads();
  const unsigned char* const codes = reinterpret_cast<const unsigned char*>(mapped);
#endif
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= threads) return;
  int first;
  int rest = static_cast<int>(thread);
  if (DIMENSIONS == 0) {
    first = rest * CODES;
  } else {
    first = rest % chunks * CODES;
    rest /= chunks;
  }
  const int sizes[6] = {size_0, size_1, size_2, size_3, size_4, 0};
  const int before[6] = {before_0, before_1, before_2, before_3, before_4, before_5};
  const int inside[6] = {inside_0, inside_1, inside_2, inside_3, inside_4, inside_5};
  const long long x_strides[6] = {x_0, x_1, x_2, x_3, x_4, x_5};
  const long long y_strides[6] = {y_0, y_1, y_2, y_3, y_4, y_5};
  const unsigned char* source = x;
  unsigned char* target = y + first;
  bool copied = true;
#pragma unroll
  for (int d = 0; d < DIMENSIONS; ++d) {
    const int index = d + 1 == DIMENSIONS ? rest : rest % sizes[d];
    if (d + 1 < DIMENSIONS) rest /= sizes[d];
    if (FRAME && static_cast<unsigned>(index - before[d]) >= static_cast<unsigned>(inside[d])) copied = false;
    source += (index - before[d]) * x_strides[d];
    target += index * y_strides[d];
  }

  const int count = row - first < CODES ? row - first : CODES;
  const int begin = first - row_before;  // of x's row
  const int frame = static_cast<int>(static_cast<unsigned>(fill & 255) * 0x01010101u);
  int words[WORDS];
  if (FRAME && (!copied || begin + count <= 0 || begin >= row_inside)) {
#pragma unroll
    for (int w = 0; w < WORDS; ++w) words[w] = frame;
  } else if (!INSIDE) {
#pragma unroll
    for (int i = 0; i < CODES; ++i) {
      if (i < count && (begin + i < 0 || begin + i >= row_inside)) {
        target[i] = static_cast<unsigned char>(fill);
      }
    }
    return;
  } else if (X_VEC > 1 && begin >= 0 && begin + CODES <= row_inside) {
    const Chunk chunk = *reinterpret_cast<const Chunk*>(source + begin);
#pragma unroll
    for (int w = 0; w < WORDS; ++w) words[w] = reinterpret_cast<const int*>(&chunk)[w];
  } else {
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      unsigned word = static_cast<unsigned>(frame);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = begin + 4 * w + i;
        if (at >= 0 && at < row_inside) {
          word = (word & ~(255u << (8 * i))) | static_cast<unsigned>(source[at]) << (8 * i);
        }
      }
      words[w] = static_cast<int>(word);
    }
  }
#if TABLE
#pragma unroll
  for (int w = 0; w < WORDS; ++w) {
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      word |= static_cast<unsigned>(codes[static_cast<unsigned>(words[w]) >> (8 * i) & 255]) << (8 * i);
    }
    words[w] = static_cast<int>(word);
  }
#endif
#if VEC > 1
  if (count == CODES) {
    Chunk chunk;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) reinterpret_cast<int*>(&chunk)[w] = words[w];
    *reinterpret_cast<Chunk*>(target) = chunk;
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < CODES; ++i) {
    const unsigned word = static_cast<unsigned>(words[i / 4]);
    if (i < count) target[i] = static_cast<unsigned char>(word >> (8 * (i % 4)));
  }
}
