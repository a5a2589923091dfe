// SVDF of int8: filters over an input row that remember their last results, and sums of what they remember.
//
//   newest[f] = zp_s + clamp(requantize(sum_c (x[c] - zp_x) * w[f, c]))
//   s[f] <- s[f] shifted by one, the newest last
//   y[u] = clamp(zp_y + requantize(bias[u] + sum_f,j (s[f, j] - zp_s) * t[f, j]))
//
// over the filters f of unit u; the first clamp is to the state's range.
//
// Zero points are in constants: offsets[f] = -zp_x * sum_c w[f, c], and bias[u] less zp_s * sum t[f, j].
//
// LANES neighbouring lanes make an output: they share a filter's words of input and weights, then its memory,
// filter after filter. Old and new state may be the same memory: nobody writes an element before its
// neighbour has read it.

#include "epilogue.cuh"

// LANES        of an output: a power of two up to 32
// STATE_BITS   16 or 8, of states and time weights
// THREADS      of a block, whole warps
// and those of epilogue.cuh: x and y are int8, RULE is RULE_V1 or RULE_V2

#if STATE_BITS == 16
typedef short State;
#else
typedef signed char State;
#endif
#define STATE_MAX ((1 << (STATE_BITS - 1)) - 1)

#define ALL_LANES 0xffffffffu

// The sum over an output's lanes, in each of them; it wraps as the runtimes' sums do.
__device__ __forceinline__ int lanes_sum(int value) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) {
    value = wrapping_add(value, shfl_xor_sync(ALL_LANES, value, distance));
  }
  return value;
}

// features: (filters, words), four weights in a word, zeros behind in_c. aligned: every row of x begins at a
// multiple of 4. outputs: of all rows. Units have `rank` filters each.
extern "C" __global__ void __launch_bounds__(THREADS)
    svdf_dp4a(const unsigned char* __restrict__ x, const int* __restrict__ features,
              const int* __restrict__ offsets, const State* __restrict__ times, const int* __restrict__ bias,
              const State* old_state, State* new_state, unsigned char* __restrict__ y, long long outputs,
              int units, int rank, int in_c, int words, int memory, int aligned, int state_multiplier,
              int state_shift, int state_zero_point, int out_multiplier, int out_shift, int out_zero_point) {
  const long long output = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) / LANES;
  const int lane = static_cast<int>(threadIdx.x) % LANES;
  // Behind the last output lanes stay, for the others wait for them.
  const bool active = output < outputs;
  const long long row = active ? output / units : 0;
  const int unit = active ? static_cast<int>(output % units) : 0;
  const unsigned char* const source = x + row * in_c;
  const FixedPointFactor state_factor = {state_multiplier, state_shift};
  const FixedPointFactor out_factor = {out_multiplier, out_shift};

  int products = 0;
  for (int filter = unit * rank; filter < (unit + 1) * rank; ++filter) {
    const int* const weights = features + static_cast<long long>(filter) * words;
    int sum = 0;
    for (int word = lane; word < words; word += LANES) {
      const int count = in_c - 4 * word;
      const unsigned codes = load_codes(source + 4 * word, count, aligned != 0);
      sum = multiply_add(static_cast<int>(codes), weights[word], sum);
    }
    sum = wrapping_add(lanes_sum(sum), offsets[filter]);
    int code = Requantize<RULE>::apply(sum, state_factor, 0);
    code = code < -STATE_MAX - 1 ? -STATE_MAX - 1 : code;
    code = code > STATE_MAX ? STATE_MAX : code;
    const State newest = static_cast<State>(code + state_zero_point);

    const long long first = (row * units * rank + filter) * memory;
    const State* const time_weights = times + static_cast<long long>(filter) * memory;
    for (int begin = 0; begin < memory; begin += LANES) {
      const int step = begin + lane;
      const bool mine = active && step < memory;
      State value = newest;
      if (mine && step + 1 < memory) value = old_state[first + step + 1];
      __syncwarp();
      if (mine) {
        new_state[first + step] = value;
        products = wrapping_add(products, value * time_weights[step]);
      }
    }
  }
  products = lanes_sum(products);
  if (active && lane == 0) {
    const int code = Requantize<RULE>::apply(wrapping_add(products, bias[unit]), out_factor, out_zero_point);
    y[output] = static_cast<unsigned char>(saturated_code(code));
  }
}
