// What observers ask of float32 values: their extremes, and how many fall into each bin of a histogram.
// Integer results: they do not depend on the order in which threads meet.
//
// THREADS  of a block
// BINS     room for bins in shared memory; a histogram has at most as many

#include "portable.cuh"

// Floats in the order of unsigned numbers: -inf lowest, +inf highest, NaN beyond either.
static __device__ __forceinline__ unsigned ordered(float value) {
  const unsigned bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// result[0] and result[1]: the lowest and the highest value, as `ordered` has them; they begin at ~0 and 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    observe_extremes(const float* __restrict__ x, unsigned* __restrict__ result, long long elements) {
  SHARED(unsigned, ends, [2]);
  if (threadIdx.x < 2) ends[threadIdx.x] = threadIdx.x ? 0u : ~0u;
  __syncthreads();
  unsigned low = ~0u, high = 0u;
  const long long step = static_cast<long long>(gridDim.x) * THREADS;
  for (long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; i < elements; i += step) {
    const unsigned key = ordered(x[i]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  atomicMin(&ends[0], low);
  atomicMax(&ends[1], high);
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicMin(&result[0], ends[0]);
    atomicMax(&result[1], ends[1]);
  }
}

// counts[k] += values in bin first + k, bin j being [j, j + 1) / (scale * more); both factors are powers of
// two, for one float32 does not hold the largest. Every value lies in one of the bins.
extern "C" __global__ void __launch_bounds__(THREADS)
    observe_histogram(const float* __restrict__ x, unsigned long long* __restrict__ counts,
                      long long elements, float scale, float more, int first, int bins) {
  SHARED(unsigned, local, [BINS]);
  for (int bin = threadIdx.x; bin < bins; bin += THREADS) local[bin] = 0;
  __syncthreads();
  const long long step = static_cast<long long>(gridDim.x) * THREADS;
  for (long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; i < elements; i += step) {
    const float value = x[i];
    const float scaled = value * scale * more;
    // A negative value may vanish as it is scaled; its bin ends at 0 all the same.
    const int bin = scaled == 0.0f && value < 0.0f ? -1 : static_cast<int>(floorf(scaled));
    atomicAdd(&local[bin - first], 1u);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < bins; bin += THREADS) {
    if (local[bin] != 0) atomicAdd(&counts[bin], static_cast<unsigned long long>(local[bin]));
  }
}
