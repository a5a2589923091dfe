// For tests of what does not even start.

#include "portable.cuh"

extern "C" __global__ void small(int* out, int turns) { out[threadIdx.x] = turns; }

#ifdef NEVER
extern "C" __global__ void removed(int* out) { out[0] = 0; }
#endif

#ifdef BROKEN
extern "C" __global__ void broken(int* out) { out[0] = undeclared; }
#endif
