// What the gates of an LSTM of int8 see of its input, of all steps at once.
//
//   part[row, pair] = sat16( requantize(offsets[pair] + sum_k x[row, k] * w[pair, k]) )
//
// A pair is a gate and a cell. Zero points are in the offsets: bias less zp_x * sum_k w. Each gate has a
// factor of its own.
//
// Tiles of BM rows times BN pairs, as in batch_matmul_dp4a.cu: a thread has rows own_row + 16 i and pairs
// own_pair + 16 j.

#include "epilogue.cuh"

// THREADS  256
// and those of epilogue.cuh: x is int8, RULE is RULE_V1 or RULE_V2

#define BM 64
#define BN 64
#define WORDS 8

// w: (words, pairs), four weights in a word, zeros behind in_c. factors: of each gate. aligned: every row of
// x begins at a multiple of 4.
extern "C" __global__ void __launch_bounds__(THREADS)
    lstm_inputs_dp4a(const unsigned char* __restrict__ x, const int* __restrict__ w,
                     const int* __restrict__ offsets, const Factor* __restrict__ factors,
                     short* __restrict__ parts, long long rows, int pairs, int pair_tiles, int units,
                     int in_c, int words, int aligned) {
  SHARED(int, Xs, [WORDS][BM + 1]);
  SHARED(int, Ws, [WORDS][BN]);
  const int thread = static_cast<int>(threadIdx.x);
  const long long first_row = static_cast<long long>(blockIdx.x / pair_tiles) * BM;
  const int first_pair = static_cast<int>(blockIdx.x % pair_tiles) * BN;
  const int own_row = thread / 16;
  const int own_pair = thread % 16;
  int sums[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = 0;
  }

  for (int word0 = 0; word0 < words; word0 += WORDS) {
#pragma unroll
    for (int pass = 0; pass < BM * WORDS / THREADS; ++pass) {
      // Neighbours take neighbouring words of a row of x, and neighbouring pairs.
      const int index = thread + pass * THREADS;
      const int word = word0 + index % WORDS;
      const long long row = first_row + index / WORDS;
      const int count = in_c - 4 * word;
      Xs[index % WORDS][index / WORDS] =
          row < rows && count > 0
              ? static_cast<int>(load_codes(x + row * in_c + 4 * word, count, aligned != 0))
              : 0;
      const int pair = first_pair + index % BN;
      const int deep = word0 + index / BN;
      Ws[index / BN][index % BN] =
          pair < pairs && deep < words ? w[static_cast<long long>(deep) * pairs + pair] : 0;
    }
    __syncthreads();
#pragma unroll
    for (int word = 0; word < WORDS; ++word) {
      int codes[4];
      int weights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        codes[i] = Xs[word][own_row + 16 * i];
        weights[i] = Ws[word][own_pair + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = multiply_add(codes[i], weights[j], sums[i][j]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int pair = first_pair + own_pair + 16 * j;
    if (pair >= pairs) continue;
    const Factor factor = factors[pair / units];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const long long row = first_row + own_row + 16 * i;
      if (row >= rows) continue;
      const int number = Requantize<RULE>::apply(wrapping_add(sums[i][j], offsets[pair]), factor, 0);
      parts[row * pairs + pair] = static_cast<short>(number < -32768  ? -32768
                                                     : number > 32767 ? 32767
                                                                      : number);
    }
  }
}
