// Every function of one code where input or output is int16: y[i] = table[x[i]], entries computed on the
// host.
//
// 65,536 entries are too many for shared memory; they stay in the caches. A thread maps eight neighbouring
// codes. The table is looked up by the code's bits as they lie in memory.

#include "portable.cuh"

// X            type of the input's codes: uint8_t, uint16_t
// Y            type of the output's codes: uint8_t, uint16_t
// REST         1: there is a second table for elements `whole` to `run` - 1 of each run
// VECTOR       1: x and y are multiples of eight codes; 0: any address
// THREADS      of a block

struct __align__(8 * sizeof(X)) EightX {
  X codes[8];
};
struct __align__(8 * sizeof(Y)) EightY {
  Y codes[8];
};

extern "C" __global__ void __launch_bounds__(THREADS)
    map_codes_wide(const X* __restrict__ x, const Y* __restrict__ table, Y* __restrict__ y,
                   long long elements, int run, int whole) {
  const long long first = 8 * (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x);
  if (first >= elements) return;
  const int count = elements - first < 8 ? static_cast<int>(elements - first) : 8;
  EightX in;
  if (VECTOR && count == 8) {
    in = *reinterpret_cast<const EightX*>(x + first);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) in.codes[i] = i < count ? x[first + i] : static_cast<X>(0);
  }
  EightY out;
#if REST
  int position = static_cast<int>(first % run);
#endif
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#if REST
    out.codes[i] = table[(position < whole ? 0 : 1 << (8 * sizeof(X))) + in.codes[i]];
    position = position + 1 == run ? 0 : position + 1;
#else
    out.codes[i] = table[in.codes[i]];
#endif
  }
  if (VECTOR && count == 8) {
    *reinterpret_cast<EightY*>(y + first) = out;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < count) y[first + i] = out.codes[i];
    }
  }
}
