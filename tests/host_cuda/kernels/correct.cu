// Kernels without a fault: what the host build must get right for every order of threads.

#include "portable.cuh"

// C = A B for int8 matrices with exact int32 sums: A is m x k, B is k x n, row by row. Blocks of T x T
// threads compute T x T elements of one of gridDim.z products.
#define T 8
extern "C" __global__ void tiled_product(int* c, const int8_t* a, const int8_t* b, int m, int n, int k) {
  SHARED(int8_t, As, [T][T]);
  SHARED(int8_t, Bs, [T][T + 1]);
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = T * blockIdx.y + y, column = T * blockIdx.x + x;
  a += blockIdx.z * m * k;
  b += blockIdx.z * k * n;
  c += blockIdx.z * m * n;
  int sum = 0;
  for (int k0 = 0; k0 < k; k0 += T) {
    As[y][x] = row < m && k0 + x < k ? a[row * k + k0 + x] : 0;
    Bs[y][x] = column < n && k0 + y < k ? b[(k0 + y) * n + column] : 0;
    __syncthreads();
    for (int i = 0; i < T; ++i) sum += As[y][i] * Bs[i][x];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

// Each thread writes its linear number in the grid, and checks what it is told about the grid.
extern "C" __global__ void indices(int* out, int bx, int by, int bz, int gx, int gy, int gz) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const bool told = static_cast<int>(blockDim.x) == bx && static_cast<int>(blockDim.y) == by &&
                    static_cast<int>(blockDim.z) == bz && static_cast<int>(gridDim.x) == gx &&
                    static_cast<int>(gridDim.y) == gy && static_cast<int>(gridDim.z) == gz && warpSize == 32;
  out[block * bx * by * bz + thread] = told ? block * bx * by * bz + thread : -1;
}

// What each lane gets from the four shuffles: out[kind][lane], for one warp, or a shorter one.
extern "C" __global__ void shuffles(int* out, const int* in, int argument, int width) {
  const int lane = threadIdx.x;
  const int value = in[lane];
  out[lane] = __shfl_sync(0xffffffff, value, argument, width);
  out[32 + lane] = __shfl_up_sync(0xffffffff, value, argument, width);
  out[64 + lane] = __shfl_down_sync(0xffffffff, value, argument, width);
  out[96 + lane] = __shfl_xor_sync(0xffffffff, value, argument, width);
}

// 8-byte values and floats, and the wrappers.
extern "C" __global__ void shuffle_types(long long* longs, double* doubles, float* floats, int* wrapped) {
  const int lane = threadIdx.x;
  longs[lane] = __shfl_xor_sync(0xffffffff, (1ll << 40) + lane, 1);
  doubles[lane] = __shfl_xor_sync(0xffffffff, lane + 0.25, 1);
  floats[lane] = __shfl_xor_sync(0xffffffff, static_cast<float>(lane) + 0.5f, 1);
  wrapped[lane] = shfl_xor_sync(0xffffffff, lane, 1) + 100 * shfl_sync(0xffffffff, lane, 5) +
                  10000 * (shfl_up_sync(0xffffffff, lane, 1) + shfl_down_sync(0xffffffff, lane, 1));
}

// Warp functions in divergent code: each half of a warp for itself, and within the halves other counts of
// turns. votes[thread] = ballot | any << 16 | all << 17, over the half.
extern "C" __global__ void halves(int* sums, unsigned* votes, const int* in) {
  const int thread = threadIdx.x, lane = thread % 32;
  int sum = in[thread];
  unsigned vote;
  if (lane < 16) {
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(0x0000ffff, sum, step);
    vote = __ballot_sync(0x0000ffff, in[thread] > 0);
    vote |= __any_sync(0x0000ffff, in[thread] > 0) << 16 | __all_sync(0x0000ffff, in[thread] > 0) << 17;
  } else {
    for (int step = 1; step < 16; step *= 2) sum += __shfl_down_sync(0xffff0000, sum, step, 16);
    sum = __shfl_sync(0xffff0000, sum, 0, 16);
    vote = __ballot_sync(0xffff0000, in[thread] > 0) >> 16;
    vote |= __any_sync(0xffff0000, in[thread] > 0) << 16 | __all_sync(0xffff0000, in[thread] > 0) << 17;
  }
  __syncwarp();
  sums[thread] = sum;
  votes[thread] = vote;
}

// out[7][32]: reductions over one warp.
extern "C" __global__ void reductions(int* out, const int* in) {
  const int lane = threadIdx.x, value = in[lane];
  const unsigned bits = static_cast<unsigned>(value);
  out[lane] = __reduce_add_sync(0xffffffff, value);
  out[32 + lane] = __reduce_min_sync(0xffffffff, value);
  out[64 + lane] = __reduce_max_sync(0xffffffff, value);
  out[96 + lane] = static_cast<int>(__reduce_max_sync(0xffffffff, bits));
  out[128 + lane] = static_cast<int>(__reduce_and_sync(0xffffffff, bits));
  out[160 + lane] = static_cast<int>(__reduce_or_sync(0xffffffff, bits));
  out[192 + lane] = static_cast<int>(__reduce_xor_sync(0xffffffff, bits));
}

// out[3][threads]: how many threads of the block, whether any, whether all have a positive value.
extern "C" __global__ void counting_barriers(int* out, const int* in) {
  const int i = threadIdx.x, n = blockDim.x;
  out[i] = __syncthreads_count(in[i] > 0);
  out[n + i] = __syncthreads_or(in[i] > 0);
  out[2 * n + i] = __syncthreads_and(in[i] > 0);
}

// A histogram of bytes in shared memory, added to that of all blocks. And the other atomics on `others`:
// sum (wrapping), minimum, maximum, unsigned maximum, and, or, xor, who changed -1 by CAS, how many did that,
// minus the sum.
extern "C" __global__ void atomics(int* histogram, int* others, unsigned long long* total,
                                   const uint8_t* bytes, const int* in, int n) {
  SHARED(int, bins, [256]);
  for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
  __syncthreads();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(&bins[bytes[i]], 1);
  __syncthreads();
  for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) atomicAdd(&histogram[bin], bins[bin]);
  if (i >= n) return;
  const int value = in[i];
  atomicAdd(others, value);
  atomicMin(others + 1, value);
  atomicMax(others + 2, value);
  atomicMax(reinterpret_cast<unsigned*>(others + 3), static_cast<unsigned>(value));
  atomicAnd(others + 4, value);
  atomicOr(others + 5, value);
  atomicXor(others + 6, value);
  if (atomicCAS(others + 7, -1, i) == -1) atomicAdd(others + 8, 1);
  atomicSub(others + 9, value);
  atomicAdd(total, static_cast<unsigned long long>(bytes[i]) << 32);
}

// Nothing but barriers: what a switch costs.
extern "C" __global__ void barriers(int* out, int turns) {
  for (int i = 0; i < turns; ++i) __syncthreads();
  out[threadIdx.x] = turns;
}

// Every argument type.
extern "C" __global__ void every_type(double* out, const float* none, int i, unsigned u, long long l, float f,
                                      double d, int more, int than, int six, long long integers, float and_,
                                      double floats) {
  const double all[] = {static_cast<double>(none == nullptr),
                        static_cast<double>(i),
                        static_cast<double>(u),
                        static_cast<double>(l),
                        static_cast<double>(f),
                        d,
                        static_cast<double>(more),
                        static_cast<double>(than),
                        static_cast<double>(six),
                        static_cast<double>(integers),
                        static_cast<double>(and_),
                        floats};
  for (int k = 0; k < 12; ++k) out[k] = all[k];
}
