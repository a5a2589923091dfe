// cp.async: a pipeline as matrix kernels have it, and each way to misuse the instructions. Compiled for
// sm_80, and for sm_75, where the copies are plain.

#include "portable.cuh"

// out[i] = ~in[i] for n ints, one block of 32 threads, through three stages of 128 ints; n a multiple of 4.
//
// The faults: 1: the wait leaves two groups pending, not one, so the stage that is read may not be there. 2:
// no barrier after the wait. 3: no wait. 4: no barrier before a stage is filled again.
extern "C" __global__ void async_pipeline(int* out, const int* in, int n, int fault) {
  constexpr int kStages = 3, kTile = 128;
  SHARED(int, stages, [kStages][kTile]);
  const int lane = threadIdx.x;
  const int tiles = (n + kTile - 1) / kTile;

  for (int tile = 0; tile < tiles + kStages - 1; ++tile) {
    // Fill: two tiles ahead. Every turn closes a group, empty or not, so that counting stays simple.
    if (tile < tiles) {
      const int first = kTile * tile + 4 * lane;
      cp_async_16_zfill(&stages[tile % kStages][4 * lane], in + (first < n ? first : 0), first < n ? 16 : 0);
    }
    cp_async_commit();
    const int now = tile - (kStages - 1);
    if (now < 0) continue;
    if (fault == 1) {
      cp_async_wait<kStages>();
    } else if (fault != 3) {
      cp_async_wait<kStages - 1>();
    }
    if (fault != 2) __syncthreads();
    // The mirrored lane's part, so that a missing barrier shows.
    const int place = 4 * (31 - lane);
    for (int i = 0; i < 4; ++i) {
      if (kTile * now + place + i < n) out[kTile * now + place + i] = ~stages[now % kStages][place + i];
    }
    if (fault != 4) __syncthreads();
  }
}

// Copies the first `bytes` of every word of `size` bytes, zeros behind; one block, a thread for each word.
extern "C" __global__ void async_zfill(int8_t* out, const int8_t* in, int size, int bytes) {
  DYNAMIC_SHARED(int8_t, tile);
  const int at = size * threadIdx.x;
  if (size == 16) {
    cp_async_16_zfill(tile + at, in + at, bytes);
  } else if (size == 8) {
    cp_async_8_zfill(tile + at, in + at, bytes);
  } else {
    cp_async_4_zfill(tile + at, in + at, bytes);
  }
  cp_async_wait_all();
  for (int i = 0; i < size; ++i) out[at + i] = tile[at + i];
}

// out[i] = in[i] for 64 ints by one block of 64 threads, through 4-, 8- and 16-byte copies.
//
// The faults: 1: the target is no multiple of 16. 2: the source is none. 3: two copies to one place. 4: the
// target is not in shared memory. 5: the source is beyond the array. 6: the target is beyond its array. 7:
// more zeros than bytes. 8: the target is written before the wait. 9, no fault: copies that nobody waits for,
// and nobody reads.
extern "C" __global__ void async_misused(int* out, const int* in, int n, int fault) {
  SHARED(int, words, [64]);
  SHARED(int, pairs, [64]);
  SHARED(int, quads, [64]);
  const int i = threadIdx.x;
  cp_async_4(words + i, in + i);
  if (i % 2 == 0) cp_async_8(pairs + i, in + i);
  if (i % 4 == 0) {
    cp_async_16(quads + i + (fault == 1) + 64 * (fault == 6), in + i + (fault == 2) + n * (fault == 5));
  }
  if (fault == 3 && i == 8) cp_async_8(quads + i, in + i);
  if (fault == 4 && i == 8) cp_async_8(out + i, in + i);
  if (fault == 7 && i == 8) cp_async_8_zfill(quads + i, in + i, 9);
  if (fault == 8 && i == 8) quads[i] = 0;
  if (fault == 9) {
    out[i] = in[i];
    return;
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  const int value = words[n - 1 - i];
  out[n - 1 - i] = value == pairs[n - 1 - i] && value == quads[n - 1 - i] ? value : -1;
}

// out = {how many ints of group 0, 1, 2 are there after wait<2>, <1>, <0>}, -1 where wait<N> came too early.
// One thread. A copy is there if its target holds what the source held.
extern "C" __global__ void async_groups(int* out, const int* in, int group_to_read, int groups_left) {
  SHARED(int, tile, [3][4]);
  for (int group = 0; group < 3; ++group) {
    cp_async_16(tile[group], in + 4 * group);
    cp_async_commit();
  }
  if (groups_left == 2) cp_async_wait<2>();
  if (groups_left == 1) cp_async_wait<1>();
  if (groups_left == 0) cp_async_wait<0>();
  for (int i = 0; i < 4; ++i) out[i] = tile[group_to_read][i];
}
