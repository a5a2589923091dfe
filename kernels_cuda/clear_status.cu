// Before the steps of a call: the words of those that may refuse their data become 0.

#include "portable.cuh"

// THREADS   of the only block

extern "C" __global__ void __launch_bounds__(THREADS) clear_status(int* __restrict__ status, int words) {
  for (int word = static_cast<int>(threadIdx.x); word < words; word += THREADS) status[word] = 0;
}
