// GATHER and GATHER_ND by indices that the network computes.
//
//   y[run, b, o, p, :] = x[run, b, o, index[run, b, p, 0], ..., index[run, b, p, depth - 1], :]
//
// GATHER has one index for each p (depth 1); GATHER_ND has `depth` of them, and one b and one o. An index
// outside its dimension is refused, and the nearest one taken.
//
//   x, y    any elements; what ":" stands for is a slice of bytes side by side
//   index   (runs, batch, picked, depth)
//
// A thread moves one item of a slice; neighbouring threads write neighbouring items.

#include "items.cuh"
#include "status.cuh"

// INDEX     type of an index
// ITEM      bytes of an item: 1, 2, 4, 8 or 16; slices and all addresses are multiples of it
// THREADS   of a block

// items: of a slice; threads: of all runs. axes: of each index its dimension's size, and its stride in bytes.
// Pitches of x in bytes, that of the indices in elements; 0 where all runs share them.
extern "C" __global__ void __launch_bounds__(THREADS)
    gather_slices(const unsigned char* __restrict__ x, const INDEX* __restrict__ indices,
                  const long long* __restrict__ axes, Item* __restrict__ y, int* __restrict__ status,
                  long long threads, int items, int picked, int outer, int batch, int depth,
                  long long x_run_pitch, long long x_outer_pitch, long long index_run_pitch) {
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int item = static_cast<int>(thread % items);
  const int pick = static_cast<int>(thread / items % picked);
  const long long slice = thread / items / picked;
  const int o = static_cast<int>(slice % outer);
  const int b = static_cast<int>(slice / outer % batch);
  const long long run = slice / outer / batch;
  const INDEX* const index =
      indices + (run * index_run_pitch + (static_cast<long long>(b) * picked + pick) * depth);
  const unsigned char* source =
      x + (run * x_run_pitch + (static_cast<long long>(b) * outer + o) * x_outer_pitch +
           static_cast<long long>(item) * ITEM);
  for (int d = 0; d < depth; ++d) {
    const long long size = axes[2 * d];
    long long place = index[d];
    if (place < 0 || place >= size) {
      // The first dimension has the largest reason.
      refuse(status, depth - d);
      place = place < 0 ? 0 : size - 1;
    }
    source += place * axes[2 * d + 1];
  }
  y[thread] = *reinterpret_cast<const Item*>(source);
}
