// Two tensors of codes, with broadcasting: ADD, SUB, MUL, PRELU and SQUARED_DIFFERENCE, or any operator on
// 8-bit codes by a table.
//
//   y = clamp(zp_y + requantize(a[code_a] OP b[code_b]))        y = pairs[256 * byte_a + byte_b]
//
// a and b are functions of one code, computed on the host by the runtimes' rules: for sums the raised values
// (the second ones negated for SUB), for products code - zero point. Where such a function is scale * code +
// offset, exactly and for every code, two tables' worth of shared loads and their bank conflicts are saved;
// that is the case for both operands of a product and for a sum's operand with the larger scale.
//
// Tensors are walked as rows of neighbouring codes, a row for each index of up to 6 outer dimensions. A
// thread makes COUNT neighbouring codes of a row. Strides are in bytes, 0 where a tensor is broadcast.

#include "epilogue.cuh"

// OPERATION    OPERATION_SUM, _PRODUCT: what OP is; OPERATION_PAIR: a_table points to `pairs`, bytes;
//              OPERATION_MAX, _MIN: the larger or smaller code itself; OPERATION_PRELU: a, or the product
//              where a is negative, which the second of two factors is for; OPERATION_SQUARE: the square of
//              the sum
// A_TABLE      1: a is a table of values by the code's bits, of int16 too long for shared memory; 0: a_scale
// *
//              code + a_offset
// B_TABLE      the same of b
// A_STEP       1: a's codes lie side by side in a row; 0: a row has one code
// B_STEP       the same of b
// DIMENSIONS   outer dimensions that are walked, 0 to 6; the others have size 1
// VEC          codes of one load and store, 16, 8 or 4, of which all addresses are multiples; 1: any address
// THREADS      of a block
// and those of epilogue.cuh

#define OPERATION_SUM 0
#define OPERATION_PRODUCT 1
#define OPERATION_PAIR 2
#define OPERATION_MAX 3
#define OPERATION_MIN 4
#define OPERATION_PRELU 5
#define OPERATION_SQUARE 6

#define REQUANTIZES (OPERATION != OPERATION_PAIR && OPERATION != OPERATION_MAX && OPERATION != OPERATION_MIN)

#define COUNT (VEC < 4 ? 4 : VEC)
#define FOURS (COUNT / 4)
#define TABLES_IN_SHARED (X_BITS == 8 && (A_TABLE || B_TABLE))

// As many codes as a thread loads and stores at once.
struct __align__(sizeof(Codes) * FOURS) Chunk {
  Codes fours[FOURS];
};

// Four times the same code.
__device__ __forceinline__ Codes repeated(const unsigned char* source) {
#if X_BITS == 16
  const unsigned two = *reinterpret_cast<const unsigned short*>(source) * 0x00010001u;
  return make_uint2(two, two);
#else
  return source[0] * 0x01010101u;
#endif
}

// The first `count` of COUNT codes; one code for all of them where STEP is 0.
template <int STEP>
__device__ __forceinline__ Chunk load_row(const unsigned char* source, int count) {
  if (STEP == 1 && VEC > 1 && count == COUNT) return *reinterpret_cast<const Chunk*>(source);
  Chunk chunk;
#pragma unroll
  for (int four = 0; four < FOURS; ++four) {
    chunk.fours[four] =
        STEP == 0 ? repeated(source) : load_codes(source + 4 * CODE_BYTES * four, count - 4 * four, false);
  }
  return chunk;
}

// row: codes of a row, chunks: ceil(row / CODES). threads: chunks times all outer sizes. Dimension 0 is the
// innermost of the outer ones.
extern "C" __global__ void __launch_bounds__(THREADS)
    binary_codes(const unsigned char* __restrict__ a, const int* __restrict__ a_table, int a_scale,
                 int a_offset, const unsigned char* __restrict__ b, const int* __restrict__ b_table,
                 int b_scale, int b_offset, const Factor* __restrict__ factors, unsigned char* __restrict__ y,
                 int threads, int row, int chunks, int size_0, int size_1, int size_2, int size_3, int size_4,
                 long long a_0, long long a_1, long long a_2, long long a_3, long long a_4, long long a_5,
                 long long b_0, long long b_1, long long b_2, long long b_3, long long b_4, long long b_5,
                 long long y_0, long long y_1, long long y_2, long long y_3, long long y_4, long long y_5,
                 int zero_point, int act_min, int act_max) {
#if TABLES_IN_SHARED
  SHARED(int, tables, [256 * (A_TABLE + B_TABLE)]);
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += THREADS) {
#if A_TABLE
    tables[i] = a_table[i];
#endif
#if B_TABLE
    tables[256 * A_TABLE + i] = b_table[i];
#endif
  }
  __syncthreads();
  const int* const a_values = tables;
  const int* const b_values = tables + 256 * A_TABLE;
#elif OPERATION != OPERATION_PAIR
  const int* const a_values = a_table;
  const int* const b_values = b_table;
#endif

  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= threads) return;
  int first;
  int rest = static_cast<int>(thread);
  if (DIMENSIONS == 0) {
    first = rest * COUNT;
  } else {
    first = rest % chunks * COUNT;
    rest /= chunks;
  }
  const int sizes[6] = {size_0, size_1, size_2, size_3, size_4, 0};
  const long long a_strides[6] = {a_0, a_1, a_2, a_3, a_4, a_5};
  const long long b_strides[6] = {b_0, b_1, b_2, b_3, b_4, b_5};
  const long long y_strides[6] = {y_0, y_1, y_2, y_3, y_4, y_5};
  const unsigned char* a_codes = a + A_STEP * CODE_BYTES * static_cast<long long>(first);
  const unsigned char* b_codes = b + B_STEP * CODE_BYTES * static_cast<long long>(first);
  unsigned char* target = y + CODE_BYTES * static_cast<long long>(first);
#pragma unroll
  for (int d = 0; d < DIMENSIONS; ++d) {
    const int index = d + 1 == DIMENSIONS ? rest : rest % sizes[d];
    if (d + 1 < DIMENSIONS) rest /= sizes[d];
    a_codes += index * a_strides[d];
    b_codes += index * b_strides[d];
    target += index * y_strides[d];
  }

  const int count = row - first < COUNT ? row - first : COUNT;
  const Chunk a_chunk = load_row<A_STEP>(a_codes, count);
  const Chunk b_chunk = load_row<B_STEP>(b_codes, count);
#if OPERATION == OPERATION_PAIR
  const unsigned char* const pairs = reinterpret_cast<const unsigned char*>(a_table);
#elif REQUANTIZES
  const Factor factor = factors[0];
#endif
#if OPERATION == OPERATION_PRELU
  const Factor negative = factors[1];
#endif
  Chunk out;
#pragma unroll
  for (int four = 0; four < FOURS; ++four) {
    const Codes a_four = a_chunk.fours[four];
    const Codes b_four = b_chunk.fours[four];
#if OPERATION == OPERATION_PAIR
    unsigned codes = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      codes |= static_cast<unsigned>(pairs[256 * bits_of(a_four, i) + bits_of(b_four, i)]) << (8 * i);
    }
    out.fours[four] = codes;
#else
    int values[4];
#if REQUANTIZES
    Factor own_factors[4];
#endif
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int value_a = value_of<A_TABLE>(a_four, i, a_values, a_scale, a_offset);
      const int value_b = value_of<B_TABLE>(b_four, i, b_values, b_scale, b_offset);
#if OPERATION == OPERATION_SUM
      values[i] = wrapping_add(value_a, value_b);
      own_factors[i] = factor;
#elif OPERATION == OPERATION_PRODUCT
      values[i] = wrapping_multiply(value_a, value_b);
      own_factors[i] = factor;
#elif OPERATION == OPERATION_SQUARE
      values[i] = wrapping_multiply(wrapping_add(value_a, value_b), wrapping_add(value_a, value_b));
      own_factors[i] = factor;
#elif OPERATION == OPERATION_PRELU
      values[i] = value_a < 0 ? wrapping_multiply(value_a, value_b) : value_a;
      own_factors[i] = value_a < 0 ? negative : factor;
#elif OPERATION == OPERATION_MAX
      values[i] = value_a > value_b ? value_a : value_b;
#else
      values[i] = value_a < value_b ? value_a : value_b;
#endif
    }
#if OPERATION == OPERATION_MAX || OPERATION == OPERATION_MIN
    out.fours[four] = pack_saturated(values[0], values[1], values[2], values[3]);
#else
    out.fours[four] = codes_of(values, own_factors, zero_point, act_min, act_max);
#endif
#endif
  }
#if VEC > 1
  if (count == COUNT) {
    *reinterpret_cast<Chunk*>(target) = out;
    return;
  }
#endif
#pragma unroll
  for (int four = 0; four < FOURS; ++four) {
    store_codes(target + 4 * CODE_BYTES * four, out.fours[four], count - 4 * four, false);
  }
}
