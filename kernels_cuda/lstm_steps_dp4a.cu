// The steps of an LSTM of int8 with cells of int16, one after another. The twin of
// gpuq/ops/unidirectional_sequence_lstm.py; lstm_inputs_dp4a.cu has made what the gates see of the input.
//
//   z[g, u] = sat16( part[g, u] + requantize(offsets[g, u] + sum_k h[k] * r[g, u, k]) )
//   c[u] = sat16( f * c[u] + i * g ), clipped
//   m[u] = clamp( requantize(o * tanh(c[u])) + zero point ); h is m, or its projection
//
// A pair is a gate g and a cell u. i, f and o are sigmoids of z, g is tanh, by tables. Gates lie in the order
// input, forget, cell, output; without an input gate there are three. Zero points are in the offsets.
//
// Blocks (group, part): a group has ITEMS items of the batch, which share each weight that is read. Small
// layers have one block a group, which takes all steps in one launch, its states in shared memory. Of large
// layers that would leave most of the GPU idle: there a launch is one phase of one step, in as many blocks as
// it has work for, and states are in scratch.

#include "epilogue.cuh"
#include "fixed_point.cuh"

// ITEMS      of a group
// WIDE       0: a group has one block, its states in dynamic shared memory; 1: several, states in scratch
// MICRO      0: LiteRT's steps; 1: TFLite Micro's, without peepholes, projections and layer normalization
// THREADS    of a block, whole warps
// and those of epilogue.cuh: x and y are int8, RULE is RULE_V1 or, if MICRO, RULE_V2

#define ALL_LANES 0xffffffffu
// Weights of 16 under way: small blocks have few warps to hide their latency, and registers to spare.
#define QUADS (WIDE ? 8 : 2)
// Groups have ITEMS items but for the last, whose others are noise; few items are what wide groups are for.
#define IS_THERE(i) (!WIDE || (i) < count)

// What a launch does of each of its steps, in this order: bits of `phases`.
#define PHASE_LOAD 1  // before the first step
#define PHASE_GATES 2
#define PHASE_NORMS 4
#define PHASE_CELLS 8
#define PHASE_LAST_NORM 16  // the output gate's
#define PHASE_OUTPUTS 32
#define PHASE_PROJECTION 64
#define PHASE_STORE 128  // behind the last step

// What each gate has: int32 of them each in `gates`.
#define GATE_NUMBERS 7
#define GATE_RECURRENT 0  // factor: multiplier, shift
#define GATE_PEEPHOLE 2   // factor
#define GATE_NORM 4       // factor to Q3.12
#define GATE_LEAST 6      // what a variance below 1 counts as

__device__ __forceinline__ int sat16(int value) {
  return value < -32768 ? -32768 : value > 32767 ? 32767 : value;
}
__device__ __forceinline__ int sat8(int value) { return value < -128 ? -128 : value > 127 ? 127 : value; }

// By the number's bits.
__device__ __forceinline__ int looked_up(const short* __restrict__ table, int number) {
  return table[number & 0xffff];
}

__device__ __forceinline__ FixedPointFactor factor_of(const int* numbers) {
  FixedPointFactor factor = {numbers[0], numbers[1]};
  return factor;
}

// The products of four int8 each, added to a sum.
__device__ __forceinline__ int multiply_add_16(const int4& codes, const int4& weights, int sum) {
  sum = multiply_add(codes.x, weights.x, sum);
  sum = multiply_add(codes.y, weights.y, sum);
  sum = multiply_add(codes.z, weights.z, sum);
  return multiply_add(codes.w, weights.w, sum);
}

#if !MICRO
// z plus a peephole's product: vectors of 16 round ties up, the rest away from zero.
//
// position: of the cell among those that make a step together; `seen` of them count, in rows of out_c.
__device__ __forceinline__ int with_peephole(int z, int cell, const short* __restrict__ holes,
                                             const int* __restrict__ gate, int position, int seen,
                                             int out_c) {
  if (position >= seen) return z;
  const int column = position % out_c;
  const BlockFactor factor = {gate[GATE_PEEPHOLE], gate[GATE_PEEPHOLE + 1], column >= out_c / 16 * 16};
  return sat16(Requantize<RULE_V1_BLOCKS>::apply(cell * holes[column], factor, z));
}

__device__ __forceinline__ long long warp_sum(long long value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const int lower = shfl_xor_sync(ALL_LANES, static_cast<int>(value), distance);
    const int upper = shfl_xor_sync(ALL_LANES, upper_word(value), distance);
    value += word_pair(lower, upper);
  }
  return value;
}

// Layer normalization of one gate of one item, by one warp: see normalized() of the twin. Divisions truncate.
__device__ void normalize(short* z, const short* __restrict__ norms, const int* __restrict__ bias,
                          const int* __restrict__ gate, int units, int lane) {
  long long sum = 0;
  long long squares = 0;
  for (int unit = lane; unit < units; unit += 32) {
    const int number = z[unit];
    sum += number;
    squares += number * number;
  }
  sum = warp_sum(sum);
  squares = warp_sum(squares);
  const int mean = static_cast<int>(sum * 1024 / units);
  const long long scaled = squares * ((1 << 20) / units) - static_cast<long long>(mean) * mean;
  int variance = static_cast<int>(scaled / (1 << 20));
  if (variance < 1) variance = gate[GATE_LEAST];
  FixedPointFactor inverse;
  inverse.multiplier = inverse_square_root(variance, &inverse.shift);
  const FixedPointFactor factor = factor_of(gate + GATE_NORM);
  for (int unit = lane; unit < units; unit += 32) {
    const int rescaled = Requantize<RULE_V1>::apply(1024 * z[unit] - mean, inverse, 0);
    const long long weighted = static_cast<long long>(rescaled) * norms[unit] + bias[unit];
    const long long tenth = (weighted > 0 ? weighted + 512 : weighted - 512) / 1024;
    z[unit] = static_cast<short>(sat16(Requantize<RULE_V1>::apply(static_cast<int>(tenth), factor, 0)));
  }
}
#endif

//   parts       int16 (rows, pairs); rows as those of x and y: by item and step, if time_major by step first
//   r           int8 (out_c / 16, pairs, 16), zeros behind out_c
//   offsets     (pairs,); gates: see GATE_NUMBERS
//   holes       int16 (gates, units), or null; norms: the same; norm_bias: (gates, units)
//   projection  int8 (units / 16, out_c, 16), or null; projection_offsets: (out_c,)
//   tables      int16 (3, 65536): sigmoid and tanh of gates, tanh of cells
//   old_, new_  hidden (items, out_c) and cells (items, units): may be the same memory
//   ..._bound   magnitudes to clip to; negative for none
//   keep_, add_ factors of f * c and i * g, if MICRO; else a product's right shifts are 15 and add_shift
//   first_step, last_step, phases: of this launch
extern "C" __global__ void __launch_bounds__(THREADS, ITEMS > 1 ? 1 : 2)
    lstm_steps_dp4a(const short* __restrict__ parts, const int4* __restrict__ r,
                    const int* __restrict__ offsets, const int* __restrict__ gates,
                    const short* __restrict__ holes, const short* __restrict__ norms,
                    const int* __restrict__ norm_bias, const int4* __restrict__ projection,
                    const int* __restrict__ projection_offsets, const short* __restrict__ tables,
                    const signed char* old_hidden, const short* old_cells, signed char* new_hidden,
                    short* new_cells, signed char* __restrict__ y, unsigned char* __restrict__ scratch,
                    long long items, int batch, int steps, int units, int out_c, int gate_count,
                    int time_major, int cell_bound, int keep_multiplier, int keep_shift, int add_multiplier,
                    int add_shift, int hidden_multiplier, int hidden_shift, int hidden_zero_point,
                    int projection_multiplier, int projection_shift, int projection_bound,
                    int state_zero_point, int first_step, int last_step, int phases) {
  const int thread = static_cast<int>(threadIdx.x);
  // Of the group's, which have blocks of their own side by side.
  const int group_thread = static_cast<int>(blockIdx.y) * THREADS + thread;
  const int group_threads = static_cast<int>(gridDim.y) * THREADS;
  const int pairs = gate_count * units;
  const int h_quads = (out_c + 15) / 16;
  const int m_quads = projection ? (units + 15) / 16 : 0;
#if !WIDE
  DYNAMIC_SHARED(unsigned char, memory);
#else
  const int item_bytes = 16 * (h_quads + m_quads) + 2 * (pairs + units);
  unsigned char* const memory =
      scratch + static_cast<long long>(blockIdx.x) * ((ITEMS * item_bytes + 15) / 16 * 16);
#endif
  int4* const h = reinterpret_cast<int4*>(memory);                 // (ITEMS, h_quads)
  int4* const m = h + ITEMS * h_quads;                             // (ITEMS, m_quads)
  short* const z = reinterpret_cast<short*>(m + ITEMS * m_quads);  // (ITEMS, pairs)
  short* const c = z + ITEMS * pairs;                              // (ITEMS, units)
  signed char* const h_codes = reinterpret_cast<signed char*>(h);
  signed char* const m_codes = reinterpret_cast<signed char*>(m);

  const long long first = static_cast<long long>(blockIdx.x) * ITEMS;
  const int count = items - first < ITEMS ? static_cast<int>(items - first) : ITEMS;
  // Of each item, its first row of parts and y.
  SHARED(long long, starts, [ITEMS]);
#if !MICRO
  // And its first cell among those that make a step together.
  SHARED(int, positions, [ITEMS]);
#endif
  const int stride = time_major ? batch : 1;
  if (thread < count) {
    const long long item = first + thread;
    starts[thread] = time_major ? item / batch * steps * batch + item % batch : item * steps;
#if !MICRO
    positions[thread] = time_major ? static_cast<int>(item % batch) * units : 0;
#endif
  }
  const FixedPointFactor hidden_factor = {hidden_multiplier, hidden_shift};
  const short* const sigmoid = tables;
  const short* const tanh_of_gate = tables + 65536;
  const short* const tanh_of_cell = tables + 131072;
#if !MICRO
  const int seen = stride * out_c;
  const int lane = thread % 32;
  const int warp = group_thread / 32;
  const int warps = group_threads / 32;
#endif

  for (int i = 0; i < count && (phases & PHASE_LOAD); ++i) {
    for (int k = group_thread; k < out_c; k += group_threads)
      h_codes[16 * i * h_quads + k] = old_hidden[(first + i) * out_c + k];
    for (int u = group_thread; u < units; u += group_threads)
      c[i * units + u] = old_cells[(first + i) * units + u];
  }
  __syncthreads();

  for (int step = first_step; step < last_step; ++step) {
    for (int pair = group_thread; (phases & PHASE_GATES) && pair < pairs; pair += group_threads) {
      int sums[ITEMS];
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) sums[i] = offsets[pair];
#pragma unroll QUADS
      for (int quad = 0; quad < h_quads; ++quad) {
        const int4 weights = r[static_cast<long long>(quad) * pairs + pair];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
          if (IS_THERE(i)) sums[i] = multiply_add_16(h[i * h_quads + quad], weights, sums[i]);
        }
      }
      const int gate = pair / units;
      const FixedPointFactor factor = factor_of(gates + GATE_NUMBERS * gate + GATE_RECURRENT);
#pragma unroll
      for (int i = 0; i < ITEMS; ++i) {
        if (i >= count) continue;
        const int part = parts[(starts[i] + static_cast<long long>(step) * stride) * pairs + pair];
#if MICRO
        const int number = sat16(part + sat16(Requantize<RULE>::apply(sums[i], factor, 0)));
#else
        int number = sat16(Requantize<RULE>::apply(sums[i], factor, part));
        // The output gate sees the cells that the others make.
        if (holes && gate != gate_count - 1) {
          const int unit = pair - gate * units;
          number = with_peephole(number, c[i * units + unit], holes + gate * units,
                                 gates + GATE_NUMBERS * gate, positions[i] + unit, seen, out_c);
        }
#endif
        z[i * pairs + pair] = static_cast<short>(number);
      }
    }
    __syncthreads();

#if !MICRO
    if (norms && (phases & PHASE_NORMS)) {
      const int normalized = gate_count - 1;
      for (int row = warp; row < count * normalized; row += warps) {
        const int gate = row % normalized;
        normalize(z + row / normalized * pairs + gate * units, norms + gate * units, norm_bias + gate * units,
                  gates + GATE_NUMBERS * gate, units, lane);
      }
      __syncthreads();
    }
#endif

    for (int cell = group_thread; (phases & PHASE_CELLS) && cell < count * units; cell += group_threads) {
      const int i = cell / units;
      const int unit = cell - i * units;
      const short* const own = z + i * pairs + unit;
      const int f = looked_up(sigmoid, own[(gate_count - 3) * units]);
      const int g = looked_up(tanh_of_gate, own[(gate_count - 2) * units]);
      const int in = gate_count == 4 ? looked_up(sigmoid, own[0]) : 32767 - f;
#if MICRO
      const FixedPointFactor keep = {keep_multiplier, keep_shift};
      const FixedPointFactor add = {add_multiplier, add_shift};
      int value = sat16(sat16(Requantize<RULE>::apply(f * c[cell], keep, 0)) +
                        sat16(Requantize<RULE>::apply(in * g, add, 0)));
#else
      int value = sat16(rounding_divide_by_pot(f * c[cell], 15) + rounding_divide_by_pot(in * g, add_shift));
#endif
      if (cell_bound >= 0)
        value = value < -cell_bound ? -cell_bound : value > cell_bound ? cell_bound : value;
      c[cell] = static_cast<short>(value);
#if !MICRO
      if (holes) {
        const int gate = gate_count - 1;
        short* const last = z + i * pairs + gate * units + unit;
        *last =
            static_cast<short>(with_peephole(*last, value, holes + gate * units, gates + GATE_NUMBERS * gate,
                                             positions[i] + unit, seen, out_c));
      }
#endif
    }

#if !MICRO
    if (norms && (phases & PHASE_LAST_NORM)) {
      if (holes) __syncthreads();
      const int gate = gate_count - 1;
      for (int i = warp; i < count; i += warps) {
        normalize(z + i * pairs + gate * units, norms + gate * units, norm_bias + gate * units,
                  gates + GATE_NUMBERS * gate, units, lane);
      }
      __syncthreads();
    }
#endif

    // A thread has the cells here that it has above.
    for (int cell = group_thread; (phases & PHASE_OUTPUTS) && cell < count * units; cell += group_threads) {
      const int i = cell / units;
      const int unit = cell - i * units;
      const int o = looked_up(sigmoid, z[i * pairs + (gate_count - 1) * units + unit]);
      const int product = o * looked_up(tanh_of_cell, c[cell]);
      const int code = sat8(Requantize<RULE>::apply(product, hidden_factor, hidden_zero_point));
      if (projection) {
        m_codes[16 * i * m_quads + unit] = static_cast<signed char>(code);
      } else {
        h_codes[16 * i * h_quads + unit] = static_cast<signed char>(code);
        y[(starts[i] + static_cast<long long>(step) * stride) * out_c + unit] =
            static_cast<signed char>(code);
      }
    }
    __syncthreads();

#if !MICRO
    if (projection && (phases & PHASE_PROJECTION)) {
      const FixedPointFactor factor = {projection_multiplier, projection_shift};
      for (int k = group_thread; k < out_c; k += group_threads) {
        int sums[ITEMS];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) sums[i] = projection_offsets[k];
#pragma unroll QUADS
        for (int quad = 0; quad < m_quads; ++quad) {
          const int4 weights = projection[static_cast<long long>(quad) * out_c + k];
#pragma unroll
          for (int i = 0; i < ITEMS; ++i) {
            if (IS_THERE(i)) sums[i] = multiply_add_16(m[i * m_quads + quad], weights, sums[i]);
          }
        }
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
          if (i >= count) continue;
          int code = sat8(Requantize<RULE>::apply(sums[i], factor, state_zero_point));
          if (projection_bound >= 0) {
            code = code < -projection_bound  ? -projection_bound
                   : code > projection_bound ? projection_bound
                                             : code;
          }
          h_codes[16 * i * h_quads + k] = static_cast<signed char>(code);
          y[(starts[i] + static_cast<long long>(step) * stride) * out_c + k] = static_cast<signed char>(code);
        }
      }
      __syncthreads();
    }
#endif
  }

  for (int i = 0; i < count && (phases & PHASE_STORE); ++i) {
    for (int k = group_thread; k < out_c; k += group_threads)
      new_hidden[(first + i) * out_c + k] = h_codes[16 * i * h_quads + k];
    for (int u = group_thread; u < units; u += group_threads)
      new_cells[(first + i) * units + u] = c[i * units + u];
  }
}
