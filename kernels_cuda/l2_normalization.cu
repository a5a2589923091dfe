// L2_NORMALIZATION of rows of 8-bit codes: each row divided by its length, in steps of 1/128.
//
//   y[i] = clamp(zp_y + requantize(x[i] - zp_x, 128 / sqrt(sum (x - zp_x)^2)))
//
// The factor is gemmlowp's fixed-point inverse square root. int8 takes the 128 into its shift, uint8 shifts
// the code by it before, as the runtimes do. One warp makes a row; rows are contiguous.

#include "epilogue.cuh"
#include "fixed_point.cuh"

// THREADS   of a block
// and those of epilogue.cuh, RULE being RULE_V1 or RULE_V2

#define ALL_LANES 0xffffffffu
#define OUTPUT_BITS 7

extern "C" __global__ void __launch_bounds__(THREADS)
    l2_normalization(const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int rows, int depth,
                     int x_zero_point, int out_zero_point, int act_min, int act_max) {
  const long long row = static_cast<long long>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Code* const source = reinterpret_cast<const Code*>(x) + row * depth;
  Code* const target = reinterpret_cast<Code*>(y) + row * depth;
  // At most 33,025 squares of 255: an int32.
  int squares = 0;
  for (int i = lane; i < depth; i += 32) {
    const int centred = source[i] - x_zero_point;
    squares += centred * centred;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) squares += shfl_xor_sync(ALL_LANES, squares, distance);
  FixedPointFactor factor;
  factor.multiplier = inverse_square_root(squares, &factor.shift);
#if !X_UNSIGNED
  factor.shift += OUTPUT_BITS;
#endif
  for (int i = lane; i < depth; i += 32) {
    int centred = source[i] - x_zero_point;
#if X_UNSIGNED
    centred = wrapping_shift_left(centred, OUTPUT_BITS);
#endif
    target[i] = saturated_code(clamped_code(centred, factor, out_zero_point, act_min, act_max));
  }
}
