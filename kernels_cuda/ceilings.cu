// What a GPU can do at most of the two things that bound a layer: multiply bytes, and move them.
//
// Nothing here computes a network. gpuq/cuda/ceilings.py times these kernels, and steps are measured against
// them.
//
// Compiled with
//     THREADS   of a block
//     CHAINS    dp4a_rate: independent accumulators of a thread, enough of them to hide dp4a's latency
//     UNROLL    dp4a_rate: steps of every chain without a branch between them; copy_words: words of a thread

#include "portable.cuh"

// for (iterations) for (u < UNROLL) for (c < CHAINS) acc[c] += a[c % 4] . b[(c / 4 + u) % 4]
//
// operands  eight words for each thread of a block, a[0..3] and b[0..3]; random, for zeros would draw little
// power sums      one for each thread of the grid: all its accumulators, so that no step can be left out
extern "C" __global__ void __launch_bounds__(THREADS)
    dp4a_rate(const int* __restrict__ operands, int* __restrict__ sums, int iterations) {
  int a[4], b[4], acc[CHAINS];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[i] = operands[8 * threadIdx.x + i];
    b[i] = operands[8 * threadIdx.x + 4 + i];
  }
#pragma unroll
  for (int c = 0; c < CHAINS; ++c) acc[c] = c;
#pragma unroll 1
  for (int iteration = 0; iteration < iterations; ++iteration) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
#pragma unroll
      for (int c = 0; c < CHAINS; ++c) acc[c] = dp4a(a[c % 4], b[(c / 4 + u) % 4], acc[c]);
    }
  }
  unsigned sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; ++c) sum += static_cast<unsigned>(acc[c]);
  sums[blockIdx.x * THREADS + threadIdx.x] = static_cast<int>(sum);
}

// to[i] = from[i], words of 16 bytes; the grid covers them all, UNROLL a thread.
extern "C" __global__ void __launch_bounds__(THREADS)
    copy_words(const int4* __restrict__ from, int4* __restrict__ to, long long words) {
  const long long first = static_cast<long long>(blockIdx.x) * THREADS * UNROLL + threadIdx.x;
  int4 word[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    if (first + u * THREADS < words) word[u] = from[first + u * THREADS];
  }
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    if (first + u * THREADS < words) to[first + u * THREADS] = word[u];
  }
}
