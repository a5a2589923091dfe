// Elements of a tensor in another order, by a table: what no few strides say.
//
//   y[run, i] = x[run, map[i]]      fill where map[i] < 0
//
// An item is one element or several neighbouring ones that stay together. The table is the same for every
// run. One thread moves one item; neighbouring threads write neighbouring items.

#include "items.cuh"

// ITEM      bytes of an item: 1, 2, 4, 8 or 16; all addresses are multiples of it
// THREADS   of a block

// items: of one run of y; threads: of all runs. Pitches in items. fill: an item.
extern "C" __global__ void __launch_bounds__(THREADS)
    gather_elements(const Item* __restrict__ x, const int* __restrict__ map, const Item* __restrict__ fill,
                    Item* __restrict__ y, int threads, int items, long long x_pitch, long long y_pitch) {
  const long long thread = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (thread >= threads) return;
  const int run = static_cast<int>(thread) / items;
  const int item = static_cast<int>(thread) % items;
  const int from = map[item];
  y[run * y_pitch + item] = from < 0 ? fill[0] : x[run * x_pitch + from];
}
