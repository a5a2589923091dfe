// One kernel for each fault that the host build must catch. Each computes out[i] = in[n - 1 - i] for i < n,
// correctly where `fault` is 0, and breaks one rule otherwise. One block unless said otherwise.

#include "portable.cuh"

// --------------------------------------------------------------------------------------------- global memory

// The block has more threads than the arrays have elements. The fault: the guard does not hold for loads.
extern "C" __global__ void load_unguarded(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  const int value = i < n || fault ? in[n - 1 - i] : 0;
  if (i < n) out[i] = value;
}

// The fault: the element stored lies that far away.
extern "C" __global__ void store_elsewhere(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  if (i < n) out[i == n - 1 ? i + fault : i] = in[n - 1 - i];
}

// The fault: the 16-byte loads start at that element, no multiple of 4.
extern "C" __global__ void load_misaligned(int* out, const int* in, int n, int fault) {
  const int i = 4 * threadIdx.x;
  if (i + fault + 4 > n) return;
  const int4 four = *reinterpret_cast<const int4*>(in + i + fault);
  out[n - 1 - i] = four.x;
  out[n - 2 - i] = four.y;
  out[n - 3 - i] = four.z;
  out[n - 4 - i] = four.w;
}

// The fault: reads the array of an earlier launch.
__device__ const int* earlier;
extern "C" __global__ void load_freed(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  if (!fault) earlier = in;
  if (i < n) out[i] = earlier[n - 1 - i];
}

extern "C" __global__ void load_null(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  if (fault) in = nullptr;
  if (i < n) out[i] = in[n - 1 - i];
}

// The fault: writes to the input.
extern "C" __global__ void store_to_input(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  if (i < n) out[i] = in[n - 1 - i];
  if (i < n && fault) const_cast<int*>(in)[i] ^= fault;
}

// Many blocks of one thread. The fault: all write to the same place.
extern "C" __global__ void block_order(int* out, const int* in, int n, int fault) {
  const int i = blockIdx.x;
  out[fault ? 0 : i] = in[n - 1 - i];
}

// --------------------------------------------------------------------------------------------- shared memory

// The fault: that many elements beyond the array.
extern "C" __global__ void shared_overflow(int* out, const int* in, int n, int fault) {
  SHARED(int, tile, [64]);
  int* end = tile + 64;
  const int i = threadIdx.x;
  end[i - n + fault] = in[i];
  __syncthreads();
  out[i] = end[-1 - i + fault];
}

// The fault: that many elements beyond the row, still inside the array.
extern "C" __global__ void shared_row_overflow(int* out, const int* in, int n, int fault) {
  SHARED(int, tile, [8][8]);
  const int i = threadIdx.x;
  tile[i / 8][i % 8] = in[i];
  __syncthreads();
  out[i] = tile[(n - 1 - i) / 8 - (fault != 0)][(n - 1 - i) % 8 + 8 * fault];
}

extern "C" __global__ void dynamic_overflow(int* out, const int* in, int n, int fault) {
  DYNAMIC_SHARED(int, tile);
  const int i = threadIdx.x;
  tile[i + fault] = in[i];
  __syncthreads();
  out[i] = tile[n - 1 - i + fault];
}

// Two blocks. The fault: one looks into the other's dynamic memory.
__device__ int* other_tile;
extern "C" __global__ void dynamic_of_other_block(int* out, const int* in, int n, int fault) {
  DYNAMIC_SHARED(int, tile);
  const int i = threadIdx.x;
  tile[i] = in[i];
  __syncthreads();
  if (!other_tile) other_tile = tile;
  out[i] = (fault ? other_tile : tile)[n - 1 - i];
}

// The fault: one element is never written.
extern "C" __global__ void shared_uninitialised(int* out, const int* in, int n, int fault) {
  SHARED(int, tile, [64]);
  const int i = threadIdx.x;
  if (!fault || i != 5) tile[i] = in[i];
  __syncthreads();
  out[i] = tile[n - 1 - i];
}

extern "C" __global__ void dynamic_uninitialised(int* out, const int* in, int n, int fault) {
  DYNAMIC_SHARED(int, tile);
  const int i = threadIdx.x;
  if (!fault || i != 5) tile[i] = in[i];
  __syncthreads();
  out[i] = tile[n - 1 - i];
}

// The fault: 64 KiB of static shared memory.
extern "C" __global__ void shared_too_large(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  out[i] = in[n - 1 - i];
  if (fault) {
    SHARED(int, tile, [16384]);
    tile[i] = 0;
  }
}

// -------------------------------------------------------------------------------------------------- barriers

extern "C" __global__ void barrier_missing(int* out, const int* in, int n, int fault) {
  SHARED(int, tile, [64]);
  const int i = threadIdx.x;
  tile[i] = in[i];
  if (!fault) __syncthreads();
  out[i] = tile[n - 1 - i];
}

// One warp; a tile is used again and again. The fault: nothing keeps the second round's stores behind the
// first round's loads.
extern "C" __global__ void barrier_missing_after_reads(int* out, const int* in, int n, int fault) {
  SHARED(int, tile, [32]);
  const int i = threadIdx.x;
  for (int round = 0; round < n / 32; ++round) {
    tile[i] = in[32 * round + i];
    __syncthreads();
    out[n - 32 - 32 * round + i] = tile[31 - i];
    if (!fault) __syncthreads();
  }
}

// The faults: 1: a thread exits before the barrier. 2: two kinds of barrier. 3: two barriers in the text. 4:
// a lane waits for its warp, which waits at the barrier.
extern "C" __global__ void barrier_divergent(int* out, const int* in, int n, int fault) {
  SHARED(int, tile, [64]);
  const int i = threadIdx.x;
  tile[i] = in[i];
  if (fault == 1 && i == 3) return;
  if (fault == 2 && i < 32) {
    __syncthreads_or(1);
  } else if (fault == 3 && i < 32) {
    __syncthreads();
  } else if (fault == 4 && i == 3) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  out[i] = tile[n - 1 - i];
}

// ----------------------------------------------------------------------------------------------------- warps

// One warp. The faults: 1: a lane has exited. 2: the mask does not name all callers. 3: the source is not in
// the mask. 4: the lanes give different masks. 5: they call different functions. 6: a width that is none.
extern "C" __global__ void shuffle_faulty(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  int value = in[i];
  if (fault == 1 && i == 7) return;
  unsigned mask = 0xffffffff;
  if (fault == 2) mask = 0x0000ffff;
  if (fault == 3) mask = i < 16 ? 0x0000ffff : 0xffff0000;
  if (fault == 4 && i == 9) mask = 0x7fffffff;
  if (fault == 5 && i == 9) {
    value = __shfl_down_sync(mask, value, 1);
  } else {
    value = __shfl_xor_sync(mask, value, n - 1, fault == 6 ? 24 : 32);
  }
  out[i] = value;
}

// --------------------------------------------------------------------------------------------------- numbers

extern "C" __global__ void signed_overflow(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  out[i] = in[n - 1 - i] + 0x7fffffff * fault;
}

extern "C" __global__ void shift_too_far(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  out[i] = in[n - 1 - i] >> (32 * fault);
}

extern "C" __global__ void cast_out_of_range(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  out[i] = in[n - 1 - i] + static_cast<int>(3e9f * static_cast<float>(fault)) * 0;
}

extern "C" __global__ void selector_too_large(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  out[i] = static_cast<int>(byte_perm(static_cast<unsigned>(in[n - 1 - i]), 0, fault ? 0x321f : 0x3210));
}

// ------------------------------------------------------------------------------------- the kernel ends badly

extern "C" __global__ void traps(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  if (fault && i == 5) __trap();
  out[i] = in[n - 1 - i];
}

// The fault: a thread waits for a value that no other will write meanwhile.
extern "C" __global__ void never_ends(int* out, const int* in, int n, int fault) {
  const int i = threadIdx.x;
  volatile int flag = fault;
  while (flag) {
  }
  out[i] = in[n - 1 - i];
}
