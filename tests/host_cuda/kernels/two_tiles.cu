// Compiled with two values of TILE; the objects are loaded side by side.

#include "portable.cuh"
#include "scale.cuh"

// An inline function with shared memory has the same name in both objects, and another size.
inline __device__ int mirrored(int value) {
  SHARED(int, tile, [TILE]);
  tile[threadIdx.x] = value;
  __syncthreads();
  return tile[TILE - 1 - threadIdx.x];
}

extern "C" __global__ void two_tiles(int* out) {
  const int i = threadIdx.x;
  out[i] = SCALE * mirrored(i);
}
