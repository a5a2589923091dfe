// exponential_f64() of kernels_cuda/exponential_f64.cuh, one value a thread.

#include "exponential_f64.cuh"

extern "C" __global__ void exponentials_f64(const double* __restrict__ x, const double2* __restrict__ parts,
                                            double* __restrict__ y, long long count) {
  const long long index = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < count) y[index] = exponential_f64(x[index], parts);
}
