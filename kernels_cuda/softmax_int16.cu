// SOFTMAX of rows of int16 codes.
//
//   sum  = sum p[max - x[i]]                       p: exp of every difference, in 1/32767, made on the host
//   y[i] = round(p[max - x[i]] * (2^k / sum))      1 / (1 + r) interpolated between 513 values, r the sum's
//   bits
//                                                  behind its first
//
// The twin of _interpolated() of gpuq/ops/softmax.py. One warp makes a row: its lanes take every 32nd four of
// codes (or code), a butterfly of shuffles finds the maximum and the sum. A row has at most 65,536 codes, so
// that its sum is an int32.

#define X_BITS 16
#define X_UNSIGNED 0
#include "codes.cuh"

// VEC          4: all rows begin at multiples of four codes and hold whole fours; 1: any
// THREADS      of a block

#define ALL_LANES 0xffffffffu

// p: int16 (65536,), then int16 (513,) of 1 / (1 + r).
extern "C" __global__ void __launch_bounds__(THREADS)
    softmax_int16(const unsigned char* __restrict__ x, long long x_pitch, const short* __restrict__ p,
                  const short* __restrict__ inverses, unsigned char* __restrict__ y, long long y_pitch,
                  int rows, int depth) {
  const long long row = static_cast<long long>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned char* const codes = x + row * x_pitch;
  unsigned char* const target = y + row * y_pitch;
  const int steps = depth / VEC;

  int largest = -32768;
#pragma unroll 4
  for (int step = lane; step < steps; step += 32) {
    const Codes four = load_codes(codes + VEC * CODE_BYTES * step, VEC, VEC == 4);
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const int code = code_of(four, i);
      largest = code > largest ? code : largest;
    }
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const int other = shfl_xor_sync(ALL_LANES, largest, distance);
    largest = other > largest ? other : largest;
  }

  int sum = 0;
#pragma unroll 2
  for (int step = lane; step < steps; step += 32) {
    const Codes four = load_codes(codes + VEC * CODE_BYTES * step, VEC, VEC == 4);
#pragma unroll
    for (int i = 0; i < VEC; ++i) sum += p[largest - code_of(four, i)];
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += shfl_xor_sync(ALL_LANES, sum, distance);

  // The sum is 2^(bits - 1) * (1 + r); r as a code: 15 bits behind the first one, rounded, 0 at -32768.
  const int headroom = __clz(sum);  // 1 or more: the sum is an int32
  const unsigned normalized = static_cast<unsigned>(sum) << (headroom - 1);
  const int r = static_cast<int>((normalized + (1u << 13)) >> 14) - ((1 << 15) + (1 << 16));
  const int code = r < -32768 ? -32768 : r > 32767 ? 32767 : r;
  const int index = 256 + (code >> 7);
  const int base = inverses[index];
  const int inverse = base + (((inverses[index + 1] - base) * (code & 127) + 64) >> 7);
  const int right = 31 - headroom;

#pragma unroll 2
  for (int step = lane; step < steps; step += 32) {
    const Codes four = load_codes(codes + VEC * CODE_BYTES * step, VEC, VEC == 4);
    int out[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const int share = (p[largest - code_of(four, i)] * inverse + (1 << (right - 1))) >> right;
      out[i] = share < 0 ? 0 : share;
    }
    store_codes(target + VEC * CODE_BYTES * step, pack_saturated(out[0], out[1], out[2], out[3]), VEC,
                VEC == 4);
  }
}
