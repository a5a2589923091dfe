// MEAN, SUM, REDUCE_MAX and REDUCE_MIN of codes over some dimensions.
//
//   y = clamp(zp_y + requantize(sum x - count * zp_x))      by RULE_V1; MEAN: the count divided into the
//   multiplier y = max x,  y = min x
//
// Two ways, by COLUMNS:
//
//   1   the last dimension is kept and the reduced ones are two loops around it (H and W of an image):
//       a thread adds up four neighbouring columns over every SLICES-th reduced element, and the slices of
//       a block meet in shared memory. thread of a block = slice * QUADS + quad
//   0   any dimensions, reduced by up to four loops: one thread for each output
//
// The kept dimensions are up to five loops, in both ways; strides are in bytes.

#include "epilogue.cuh"

// COLUMNS   see above
// REDUCTION REDUCTION_SUM (of MEAN and SUM), REDUCTION_MAX or REDUCTION_MIN
// VEC       with COLUMNS, 4: all addresses and the columns are multiples of 4 codes; 1: any
// QUADS     with COLUMNS, fours of columns of a block, a divisor of THREADS
// THREADS   of a block
// and those of epilogue.cuh, RULE being RULE_V1

#define REDUCTION_SUM 0
#define REDUCTION_MAX 1
#define REDUCTION_MIN 2

#define SLICES (THREADS / QUADS)

__device__ __forceinline__ int combined(int a, int b) {
#if REDUCTION == REDUCTION_SUM
  return wrapping_add(a, b);
#elif REDUCTION == REDUCTION_MAX
  return a > b ? a : b;
#else
  return a < b ? a : b;
#endif
}

// A column's factor: only rules of blocks ask whether it is behind the last whole one.
__device__ __forceinline__ void set_factor(FixedPointFactor& factor, int multiplier, int shift, bool) {
  factor.multiplier = multiplier;
  factor.shift = shift;
}
__device__ __forceinline__ void set_factor(BlockFactor& factor, int multiplier, int shift, bool away) {
  factor.multiplier = multiplier;
  factor.shift = shift;
  factor.away = away ? 1 : 0;
}

// outputs: without COLUMNS all elements of y; with COLUMNS all rows of `columns` of them, one for each
// blockIdx.x. bias: -count * zp_x, modulo 2^32. channels, whole: of RULE_V1_BLOCKS, see there; a column's
// channel is its number modulo `channels`, and from `whole` on there is no whole block. start: what combines
// with any code to that code. kept_0 is the innermost kept loop, reduced_0 the innermost reduced one.
extern "C" __global__ void __launch_bounds__(THREADS)
    reduce(const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int outputs, int columns,
           int kept_0, int kept_1, int kept_2, int kept_3, long long x_kept_0, long long x_kept_1,
           long long x_kept_2, long long x_kept_3, long long x_kept_4, long long y_kept_0, long long y_kept_1,
           long long y_kept_2, long long y_kept_3, long long y_kept_4, int reduced_0, int reduced_1,
           int reduced_2, int reduced_3, long long x_reduced_0, long long x_reduced_1, long long x_reduced_2,
           long long x_reduced_3, int multiplier, int shift, int bias, int out_zero_point, int act_min,
           int act_max, int start, int channels, int whole) {
#if COLUMNS
  const int output = static_cast<int>(blockIdx.x);
#else
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= outputs) return;
  const int output = static_cast<int>(thread);
#endif
  int rest = output;
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
  unsigned char* const target =
      y + (k0 * y_kept_0 + k1 * y_kept_1 + k2 * y_kept_2 + k3 * y_kept_3 + k4 * y_kept_4);

#if COLUMNS
  SHARED(int, partial, [SLICES][QUADS][4]);
  const int quad = static_cast<int>(threadIdx.x) % QUADS;
  const int slice = static_cast<int>(threadIdx.x) / QUADS;
  const int first = 4 * (static_cast<int>(blockIdx.y) * QUADS + quad);
  const int valid = columns - first;
  int sums[4] = {start, start, start, start};
  if (valid > 0) {
    source += CODE_BYTES * first;
#pragma unroll 1
    for (int r1 = 0; r1 < reduced_1; ++r1) {
      // Each row begins with another slice: short rows must not leave the later ones idle.
      const int begin = (slice + r1) % SLICES;
#pragma unroll 4
      for (int r0 = begin; r0 < reduced_0; r0 += SLICES) {
        const Codes codes = load_codes(source + r0 * x_reduced_0, valid, VEC == 4);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#if REDUCTION == REDUCTION_SUM
          sums[c] = add_code(sums[c], codes, c);
#else
          sums[c] = combined(sums[c], code_of(codes, c));
#endif
        }
      }
      source += x_reduced_1;
    }
  }
#if SLICES > 1
#pragma unroll
  for (int c = 0; c < 4; ++c) partial[slice][quad][c] = sums[c];
#pragma unroll
  for (int distance = SLICES / 2; distance > 0; distance /= 2) {
    __syncthreads();
    if (slice < distance) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sums[c] = combined(sums[c], partial[slice + distance][quad][c]);
        partial[slice][quad][c] = sums[c];
      }
    }
  }
#endif
  if (slice != 0 || valid <= 0) return;
#if REDUCTION == REDUCTION_SUM
  Factor factors[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) set_factor(factors[c], multiplier, shift, (first + c) % channels >= whole);
#pragma unroll
  for (int c = 0; c < 4; ++c) sums[c] = wrapping_add(sums[c], bias);
  const Codes codes = codes_of(sums, factors, out_zero_point, act_min, act_max);
#else
  const Codes codes = pack_saturated(sums[0], sums[1], sums[2], sums[3]);
#endif
  store_codes(target + CODE_BYTES * first, codes, valid, VEC == 4);
#else
  int sum = start;
#pragma unroll 1
  for (int r3 = 0; r3 < reduced_3; ++r3) {
    const unsigned char* volume = source;
#pragma unroll 1
    for (int r2 = 0; r2 < reduced_2; ++r2) {
      const unsigned char* plane = volume;
#pragma unroll 1
      for (int r1 = 0; r1 < reduced_1; ++r1) {
        const unsigned char* code = plane;
#pragma unroll 4
        for (int r0 = 0; r0 < reduced_0; ++r0) {
          sum = combined(sum, *reinterpret_cast<const Code*>(code));
          code += x_reduced_0;
        }
        plane += x_reduced_1;
      }
      volume += x_reduced_2;
    }
    source += x_reduced_3;
  }
#if REDUCTION == REDUCTION_SUM
  Factor factor;
  set_factor(factor, multiplier, shift, true);
  *reinterpret_cast<Code*>(target) =
      saturated_code(clamped_code(wrapping_add(sum, bias), factor, out_zero_point, act_min, act_max));
#else
  *reinterpret_cast<Code*>(target) = saturated_code(sum);
#endif
#endif
}
