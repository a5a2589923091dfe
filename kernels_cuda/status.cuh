// What a kernel says of data that its operator refuses: it cannot raise.

#pragma once

#include "portable.cuh"

// Sets a step's word, which is 0 before each call, to the largest reason; status: null where nobody asks.
__device__ __forceinline__ void refuse(int* status, int reason) {
  if (status != nullptr) atomicMax(status, reason);
}
