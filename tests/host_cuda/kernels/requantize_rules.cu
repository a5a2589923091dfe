// Every element of an array requantized by one rule: requantize.cuh against gpuq/numerics.py.

#include "portable.cuh"
#include "requantize.cuh"

// RULE      see requantize.cuh
// SUM       the type of a sum: int, or long long for V3

extern "C" __global__ void __launch_bounds__(32)
    requantize_rules(const SUM* __restrict__ acc, const Requantize<RULE>::Factor* __restrict__ factors,
                     int* __restrict__ codes, long long elements, int zero_point) {
  const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements;
       i += stride) {
    codes[i] = Requantize<RULE>::apply(acc[i], factors[i], zero_point);
  }
}
