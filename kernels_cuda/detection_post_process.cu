// TFLite_Detection_PostProcess: the best of N boxes that overlap little, in four steps.
//
//   STEP_DECODE     boxes out of encodings and anchors, float64 rounded to float32 once; a thread each
//   STEP_SCORES     scores as keys, unsigned numbers in the order of the scores, 0 of what lies below the
//   threshold:
//                   of each anchor's best class, a warp each, or of every class, transposed to (classes, N)
//   STEP_SUPPRESS   a block for each list of keys takes the largest, and clears it and those that overlap it
//   too much;
//                   again and again. Nothing is sorted: what the runtimes take in the order of a stable sort
//                   is each time the largest left, of equal ones the first
//   STEP_OUTPUT     a block for each run: fast, the best classes of each anchor taken; regular, the lists of
//   all
//                   classes merged
//
// A block's every pass over a list goes the same way, so that a thread meets its own elements alone and keys
// need no barrier.

#include "exponential_f64.cuh"
#include "status.cuh"

// STEP      one of the steps above
// REGULAR   1: each class has a list of its own; 0: one list, an anchor's best class (STEP_SCORES,
// STEP_OUTPUT) THREADS   of a block, whole warps

#define STEP_DECODE 0
#define STEP_SCORES 1
#define STEP_SUPPRESS 2
#define STEP_OUTPUT 3

#define ALL_LANES 0xffffffffu
#define WARPS (THREADS / 32)
#define TILE 32

// Larger for larger scores, and equal for 0 and -0; 0 for NaN, above it for everything else.
__device__ __forceinline__ unsigned key_of(float score) {
  const unsigned bits = __float_as_uint(__fadd_rn(score, 0.0f));
  const unsigned key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return score == score ? key : 0u;
}

// The score of an element of one run: float32, or a uint8 code, of which there are two tables: for elements
// in whole vectors of the runtimes' conversion and for those behind.
__device__ __forceinline__ float score_of(const unsigned char* scores, const float* table, long long first,
                                          long long element, long long in_vectors) {
  if (table == nullptr) return reinterpret_cast<const float*>(scores)[first + element];
  return table[(element < in_vectors ? 0 : 256) + scores[first + element]];
}

// A candidate: the largest key, of equal ones the lowest number.
struct Best {
  unsigned key;
  int number;
};

__device__ __forceinline__ Best better(Best one, unsigned key, int number) {
  if (key > one.key || (key == one.key && number < one.number)) {
    one.key = key;
    one.number = number;
  }
  return one;
}

__device__ __forceinline__ Best best_of_warp(Best own) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const unsigned key = static_cast<unsigned>(shfl_xor_sync(ALL_LANES, static_cast<int>(own.key), distance));
    own = better(own, key, shfl_xor_sync(ALL_LANES, own.number, distance));
  }
  return own;
}

// The same of a block, for all of its threads. Calls take turns with two rooms of WARPS, so that one barrier
// does: whoever writes a room the next time knows that all have read it.
__device__ __forceinline__ Best best_of_block(Best own, Best* room) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  own = best_of_warp(own);
  if (lane == 0) room[threadIdx.x / 32] = own;
  __syncthreads();
  own = room[lane % WARPS];
  return best_of_warp(own);
}

#if STEP == STEP_DECODE
// boxes: (runs, anchors, coordinates) float32, or uint8 codes where is_code. anchors: y, x, h, w. table: of
// float32 exponential_f64's parts; of uint8 for each code y / y_scale, x / x_scale, exp(h / h_scale) / 2 and
// exp(w / w_scale) / 2, 256 each. corners: ymin, xmin, ymax, xmax. status: see status.cuh; 1 where a box ends
// before it begins, with is_sized also where it begins.
extern "C" __global__ void __launch_bounds__(THREADS)
    detection_decode(const unsigned char* __restrict__ boxes, const float4* __restrict__ anchors,
                     const double* __restrict__ table, float4* __restrict__ corners, long long total,
                     int count, int coordinates, int is_code, double y_scale, double x_scale, double h_scale,
                     double w_scale, int is_sized, int* __restrict__ status) {
  const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= total) return;
  const float4 anchor = anchors[index % count];
  double y, x, h, w;
  if (is_code) {
    const unsigned char* const codes = boxes + index * coordinates;
    y = table[codes[0]];
    x = table[256 + codes[1]];
    h = table[512 + codes[2]];
    w = table[768 + codes[3]];
  } else {
    const float* const box = reinterpret_cast<const float*>(boxes) + index * coordinates;
    const double2* const parts = reinterpret_cast<const double2*>(table);
    y = __ddiv_rn(static_cast<double>(box[0]), y_scale);
    x = __ddiv_rn(static_cast<double>(box[1]), x_scale);
    h = __dmul_rn(0.5, exponential_f64(__ddiv_rn(static_cast<double>(box[2]), h_scale), parts));
    w = __dmul_rn(0.5, exponential_f64(__ddiv_rn(static_cast<double>(box[3]), w_scale), parts));
  }
  const double height = static_cast<double>(anchor.z);
  const double width = static_cast<double>(anchor.w);
  const float y_centre = __double2float_rn(__dadd_rn(__dmul_rn(y, height), static_cast<double>(anchor.x)));
  const float x_centre = __double2float_rn(__dadd_rn(__dmul_rn(x, width), static_cast<double>(anchor.y)));
  const float half_height = __double2float_rn(__dmul_rn(h, height));
  const float half_width = __double2float_rn(__dmul_rn(w, width));
  const float4 box = make_float4(__fsub_rn(y_centre, half_height), __fsub_rn(x_centre, half_width),
                                 __fadd_rn(y_centre, half_height), __fadd_rn(x_centre, half_width));
  const bool is_empty = is_sized && (box.x == box.z || box.y == box.w);
  if (box.x > box.z || box.y > box.w || is_empty) refuse(status, 1);
  corners[index] = box;
}

#elif STEP == STEP_SCORES
// scores: (runs, anchors, columns), of which the last `classes` columns count. lowest: the threshold's key.
extern "C" __global__ void __launch_bounds__(THREADS)
    detection_scores(const unsigned char* __restrict__ scores, const float* __restrict__ table,
                     unsigned* __restrict__ keys, int runs, int count, int columns, int classes,
                     long long in_vectors, unsigned lowest) {
  const long long of_run = static_cast<long long>(count) * columns;
#if REGULAR
  SHARED(unsigned, tile, [TILE][TILE + 1]);
  const int anchor_tiles = (count + TILE - 1) / TILE;
  const int class_tiles = (classes + TILE - 1) / TILE;
  const int first_anchor = static_cast<int>(blockIdx.x) % anchor_tiles * TILE;
  const int first_class = static_cast<int>(blockIdx.x) / anchor_tiles % class_tiles * TILE;
  const int run = static_cast<int>(blockIdx.x) / anchor_tiles / class_tiles;
  const int lane = static_cast<int>(threadIdx.x) % TILE;
  for (int row = static_cast<int>(threadIdx.x) / TILE; row < TILE; row += THREADS / TILE) {
    const int anchor = first_anchor + row;
    const int label = first_class + lane;
    if (anchor >= count || label >= classes) continue;
    const long long element = static_cast<long long>(anchor) * columns + columns - classes + label;
    const unsigned key = key_of(score_of(scores, table, run * of_run, element, in_vectors));
    tile[row][lane] = key >= lowest ? key : 0u;
  }
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.x) / TILE; row < TILE; row += THREADS / TILE) {
    const int anchor = first_anchor + lane;
    const int label = first_class + row;
    if (anchor >= count || label >= classes) continue;
    keys[(static_cast<long long>(run) * classes + label) * count + anchor] = tile[lane][row];
  }
#else
  const long long index = static_cast<long long>(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (index >= static_cast<long long>(runs) * count) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const long long first = index / count * of_run;
  const long long element = index % count * columns + columns - classes;
  Best own = {0u, 0};
  for (int label = lane; label < classes; label += 32) {
    own = better(own, key_of(score_of(scores, table, first, element + label, in_vectors)), 0);
  }
  own = best_of_warp(own);
  if (lane == 0) keys[index] = own.key >= lowest ? own.key : 0u;
#endif
}

#elif STEP == STEP_SUPPRESS
// std::max and std::min, which with NaN give their first operand.
__device__ __forceinline__ float first_max(float a, float b) { return a < b ? b : a; }
__device__ __forceinline__ float first_min(float a, float b) { return b < a ? b : a; }

__device__ __forceinline__ float area_of(float4 box) {
  return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y));
}

// Intersection over union, each step in float32; 0 where an area is not positive.
__device__ __forceinline__ float overlap(float4 one, float one_area, float4 other) {
  const float other_area = area_of(other);
  if (one_area <= 0.0f || other_area <= 0.0f) return 0.0f;
  const float height = first_max(__fsub_rn(first_min(one.z, other.z), first_max(one.x, other.x)), 0.0f);
  const float width = first_max(__fsub_rn(first_min(one.w, other.w), first_max(one.y, other.y)), 0.0f);
  const float shared = __fmul_rn(height, width);
  return __fdiv_rn(shared, __fsub_rn(__fadd_rn(one_area, other_area), shared));
}

// keys: (runs * lists, anchors). Of each list taken_keys and taken, `most` each, and their number: keys and
// anchors, the best first.
extern "C" __global__ void __launch_bounds__(THREADS)
    detection_suppress(const float4* __restrict__ corners, unsigned* __restrict__ keys,
                       unsigned* __restrict__ taken_keys, int* __restrict__ taken, int* __restrict__ numbers,
                       int count, int lists, int most, float most_overlap) {
  SHARED(Best, rooms, [2][WARPS]);
  const long long list = blockIdx.x;
  keys += list * count;
  corners += list / lists * count;
  taken_keys += list * most;
  taken += list * most;
  float4 last = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float last_area = 0.0f;
  int number = 0;
  for (; number < most; ++number) {
    Best own = {0u, 0x7fffffff};
#pragma unroll 2
    for (int anchor = static_cast<int>(threadIdx.x); anchor < count; anchor += THREADS) {
      const unsigned key = keys[anchor];
      if (key == 0u) continue;
      // Nothing overlaps before the first is taken: its area is 0.
      if (overlap(last, last_area, corners[anchor]) > most_overlap) {
        keys[anchor] = 0u;
        continue;
      }
      own = better(own, key, anchor);
    }
    own = best_of_block(own, rooms[number % 2]);
    if (own.key == 0u) break;
    last = corners[own.number];
    last_area = area_of(last);
    if (own.number % THREADS == static_cast<int>(threadIdx.x)) {
      keys[own.number] = 0u;
      taken_keys[number] = own.key;
      taken[number] = own.number;
    }
  }
  if (threadIdx.x == 0) numbers[list] = number;
}

#else
// A row of the outputs.
struct Outputs {
  float* boxes;
  float* labels;
  float* scores;
};

__device__ __forceinline__ void store_row(Outputs outputs, int row, float4 box, int label, float score) {
  outputs.boxes[4LL * row] = box.x;
  outputs.boxes[4LL * row + 1] = box.y;
  outputs.boxes[4LL * row + 2] = box.z;
  outputs.boxes[4LL * row + 3] = box.w;
  outputs.labels[row] = static_cast<float>(label);
  outputs.scores[row] = score;
}

// Outputs have `rows` rows a run. fast: an anchor has `labels_each` of them, `labels` filled. regular: up to
// max_rows are filled; heads: of each list how many are merged already, a place for it.
extern "C" __global__ void __launch_bounds__(THREADS)
    detection_output(const unsigned char* __restrict__ scores, const float* __restrict__ table,
                     const float4* __restrict__ corners, const unsigned* __restrict__ taken_keys,
                     const int* __restrict__ taken, const int* __restrict__ numbers, int* __restrict__ heads,
                     float* __restrict__ out_boxes, float* __restrict__ out_labels,
                     float* __restrict__ out_scores, float* __restrict__ out_numbers, int count, int columns,
                     int classes, int most, int rows, int labels_each, int labels, int max_rows,
                     long long in_vectors) {
  const long long run = blockIdx.x;
  const long long first = run * count * columns;
  const int thread = static_cast<int>(threadIdx.x);
  const Outputs outputs = {out_boxes + 4 * run * rows, out_labels + run * rows, out_scores + run * rows};
  const float4 nothing = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  corners += run * count;
#if REGULAR
  SHARED(Best, rooms, [2][WARPS]);
  taken_keys += run * classes * most;
  taken += run * classes * most;
  numbers += run * classes;
  heads += run * classes;
  for (int label = thread; label < classes; label += THREADS) heads[label] = 0;
  int row = 0;
  for (; row < max_rows; ++row) {
    Best own = {0u, 0x7fffffff};
    for (int label = thread; label < classes; label += THREADS) {
      const int head = heads[label];
      if (head < numbers[label])
        own = better(own, taken_keys[static_cast<long long>(label) * most + head], label);
    }
    own = best_of_block(own, rooms[row % 2]);
    if (own.key == 0u) break;
    if (own.number % THREADS == thread) {
      const int anchor = taken[static_cast<long long>(own.number) * most + heads[own.number]];
      heads[own.number] += 1;
      const long long element = static_cast<long long>(anchor) * columns + columns - classes + own.number;
      store_row(outputs, row, corners[anchor], own.number,
                score_of(scores, table, first, element, in_vectors));
    }
  }
  if (thread == 0) out_numbers[run] = static_cast<float>(row);
  for (int rest = row + thread; rest < rows; rest += THREADS) store_row(outputs, rest, nothing, 0, 0.0f);
#else
  const int lane = thread % 32;
  const int number = numbers[run];
  for (int place = thread / 32; place < number; place += WARPS) {
    const int anchor = taken[run * most + place];
    const long long element = static_cast<long long>(anchor) * columns + columns - classes;
    // Each time the best of what lies behind the last one.
    Best last = {0xffffffffu, -1};
    for (int column = 0; column < labels; ++column) {
      Best own = {0u, 0x7fffffff};
      for (int label = lane; label < classes; label += 32) {
        const unsigned key = key_of(score_of(scores, table, first, element + label, in_vectors));
        if (key < last.key || (key == last.key && label > last.number)) own = better(own, key, label);
      }
      last = best_of_warp(own);
      if (lane == 0) {
        const float score = score_of(scores, table, first, element + last.number, in_vectors);
        store_row(outputs, place * labels_each + column, corners[anchor], last.number, score);
      }
    }
  }
  if (thread == 0) out_numbers[run] = static_cast<float>(number);
  for (int row = thread; row < rows; row += THREADS) {
    if (row / labels_each >= number || row % labels_each >= labels) store_row(outputs, row, nothing, 0, 0.0f);
  }
#endif
}
#endif
