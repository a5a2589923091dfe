// How many 16-byte loads from shared memory a multiprocessor does per clock.
//
//     for (iteration) for (u < UNROLL) sum ^= shared[(lane's slot + u) % SLOTS]
//
// Compiled with
//     SHARERS  neighbouring lanes that read the same 16 bytes: 1 reads 512 bytes a warp, 8 the four words of
//     a tile row UNROLL   loads without a branch between them THREADS  of a block

#define SLOTS 1024  // 16 bytes each

// out     one int per thread
// clocks  one per block: those of its loop
extern "C" __global__ void __launch_bounds__(THREADS)
    shared_loads(int* out, long long* clocks, int iterations, int seed) {
  __shared__ int4 slots[SLOTS];
#pragma unroll 1
  for (int i = threadIdx.x; i < SLOTS; i += THREADS) {
    const int value = static_cast<int>((i + seed) * 2654435761u);
    slots[i] = make_int4(value, value ^ 0x55, value * 3, ~value);
  }
  __syncthreads();
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // All UNROLL slots of a lane follow its first one by constants, which the loads take as their offsets.
  const unsigned first = (warp * 32 + lane / SHARERS) % (SLOTS - 32 * UNROLL - 32);
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(&slots[first]));
  int sum = 0;
  const long long start = clock64();
#pragma unroll 1
  for (int i = 0; i < iterations; ++i) {
    int4 loaded[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      int4& v = loaded[u];
      asm volatile("ld.volatile.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "r"(address + 16 * 32 * u));
    }
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) sum ^= loaded[u].x ^ loaded[u].y ^ loaded[u].z ^ loaded[u].w;
  }
  __syncthreads();
  const long long end = clock64();
  out[blockIdx.x * THREADS + threadIdx.x] = sum;
  if (threadIdx.x == 0) clocks[blockIdx.x] = end - start;
}
