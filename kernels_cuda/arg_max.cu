// ARG_MAX of 8-bit codes or float32 along one dimension: the index of the largest element, of equal ones the
// first; the first that is not a number, if there is one.
//
// Two ways, by WARP:
//
//   1   elements that are compared lie side by side: a warp for each output. Its lanes take every 32nd word,
//       or element; a butterfly of shuffles finds the largest, and among equal ones the lowest index
//   0   any dimension: a thread for each output
//
// The other dimensions are up to five loops, strides in bytes; y's elements lie side by side in their order.

#include "portable.cuh"

// INDEX        type of an index: int, long long
// WARP         see above
// X_FLOAT      1: elements are float32
// X_UNSIGNED   otherwise, 1: they are uint8; 0: int8
// VEC          of codes with WARP, 4: all addresses of x and the codes that are compared are multiples of 4;
//              1: any
// THREADS      of a block

#define ALL_LANES 0xffffffffu

// Elements as integers of the same order, all above the lowest one.
#if X_FLOAT
typedef float Element;
__device__ __forceinline__ int order_of(float value) {
  if (value != value) return 0x7fffffff;
  const int bits = __float_as_int(__fadd_rn(value, 0.0f));  // -0 equals 0
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
#else
typedef unsigned char Element;
#if X_UNSIGNED
#define TO_ORDER 0u
#else
#define TO_ORDER 0x80808080u
#endif
__device__ __forceinline__ int order_of(unsigned char code) {
  return static_cast<int>(code ^ (TO_ORDER & 255u));
}
#endif

// kept_0 is the innermost of the other dimensions; `compared` elements, `stride` bytes apart.
extern "C" __global__ void __launch_bounds__(THREADS)
    arg_max(const unsigned char* __restrict__ x, INDEX* __restrict__ y, int outputs, int kept_0, int kept_1,
            int kept_2, int kept_3, long long x_kept_0, long long x_kept_1, long long x_kept_2,
            long long x_kept_3, long long x_kept_4, int compared, long long stride) {
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  const long long mine = WARP ? thread / 32 : thread;
  if (mine >= outputs) return;
  int rest = static_cast<int>(mine);
  const long long k0 = rest % kept_0;
  rest /= kept_0;
  const long long k1 = rest % kept_1;
  rest /= kept_1;
  const long long k2 = rest % kept_2;
  rest /= kept_2;
  const long long k3 = rest % kept_3;
  const long long k4 = rest / kept_3;
  const unsigned char* source =
      x + (k0 * x_kept_0 + k1 * x_kept_1 + k2 * x_kept_2 + k3 * x_kept_3 + k4 * x_kept_4);

  int largest = -0x7fffffff - 1;  // below every element, so that the first one counts
  int where = 0;
#if WARP
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 4
  for (int step = lane; step < compared / VEC; step += 32) {
#if VEC == 4
    const unsigned word = reinterpret_cast<const unsigned*>(source)[step] ^ TO_ORDER;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int order = static_cast<int>(word >> (8 * i) & 255);
      if (order > largest) {
        largest = order;
        where = 4 * step + i;
      }
    }
#else
    const int order = order_of(reinterpret_cast<const Element*>(source)[step]);
    if (order > largest) {
      largest = order;
      where = step;
    }
#endif
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const int other = shfl_xor_sync(ALL_LANES, largest, distance);
    const int elsewhere = shfl_xor_sync(ALL_LANES, where, distance);
    if (other > largest || (other == largest && elsewhere < where)) {
      largest = other;
      where = elsewhere;
    }
  }
  if (lane == 0) y[mine] = where;
#else
#pragma unroll 4
  for (int i = 0; i < compared; ++i) {
    const int order = order_of(*reinterpret_cast<const Element*>(source));
    if (order > largest) {
      largest = order;
      where = i;
    }
    source += stride;
  }
  y[mine] = where;
#endif
}
