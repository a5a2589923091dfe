// The reciprocal of every element: fixed_point.cuh against gpuq/ops/fixed_point.py.

#include "fixed_point.cuh"

extern "C" __global__ void __launch_bounds__(32)
    fixed_point_reciprocals(const int* __restrict__ x, int* __restrict__ found, int* __restrict__ bits,
                            long long elements, int integer_bits) {
  const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements;
       i += stride) {
    found[i] = reciprocal(x[i], integer_bits, bits + i);
  }
}
