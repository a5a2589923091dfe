// What the BATCH_MATMUL kernels share: the block, and where a batch's matrices begin.

#pragma once

#include "portable.cuh"

// Outputs of a block, of one batch; a thread has 4 by 4 of them, 16 apart.
#define BM 64
#define BN 64
#define THREADS 256

// Of one operand. size_0 and stride_0 are the innermost batch dimension's; what is left over is the outermost's.
__device__ __forceinline__ long long batch_offset(int batch, int size_0, int size_1, int size_2,
                                                  long long stride_0, long long stride_1, long long stride_2,
                                                  long long stride_3) {
  const int first = batch / size_0;
  const int second = first / size_1;
  return batch % size_0 * stride_0 + first % size_1 * stride_1 + second % size_2 * stride_2 +
         second / size_2 * stride_3;
}
