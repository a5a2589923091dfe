// How many of one instruction a multiprocessor issues per clock.
//
// Every thread runs CHAINS independent accumulators, UNROLL steps a loop, `iterations` loops:
//
//     for (iteration) for (u < UNROLL) for (c < CHAINS) acc[c] = OPERATION(acc[c], a, b)
//
// With CHAINS = 1 the time is the instruction's latency over the warps that hide it; with many it is its
// rate. Blocks note the clocks of their loop. The sum of all accumulators is stored, so that no step can be
// left out.
//
// Compiled with
//     OPERATION  what is measured, one of the OP_ names below
//     CHAINS     independent accumulators of a thread
//     UNROLL     steps without a branch between them

#define OP_DP4A 0      // d = c + a0 * b0 + ... + a3 * b3 over bytes; IDP.4A
#define OP_PACK 1      // two int32 to saturated int8, pushed into a word; I2IP
#define OP_MAD_WIDE 2  // 64 bits = 32 * 32; IMAD.WIDE, with or without its addend
#define OP_MAD 3       // 32 bits = 32 * 32 + 32; IMAD
#define OP_PRMT 4      // four bytes of eight; PRMT
#define OP_DP2A 5      // d = c + two products of int16 and int8; IDP.2A

#if OPERATION == OP_MAD_WIDE
typedef long long Accumulator;
#else
typedef int Accumulator;
#endif

__device__ __forceinline__ void step(Accumulator& acc, int a, int b) {
#if OPERATION == OP_DP4A
  asm volatile("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(acc) : "r"(a), "r"(b));
#elif OPERATION == OP_PACK
  asm volatile("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %0;" : "+r"(acc) : "r"(a), "r"(b));
#elif OPERATION == OP_MAD_WIDE
  // Both halves are a factor of the next step (one LOP3, of another pipe): a product that never changes would
  // become an addition, and of one whose half alone counts only that half would be computed.
  const int factor = static_cast<int>(acc) ^ static_cast<int>(acc >> 32);
  asm volatile("mul.wide.s32 %0, %1, %2;" : "=l"(acc) : "r"(factor), "r"(a));
#elif OPERATION == OP_MAD
  asm volatile("mad.lo.s32 %0, %0, %1, %2;" : "+r"(acc) : "r"(a), "r"(b));
#elif OPERATION == OP_PRMT
  asm volatile("prmt.b32 %0, %0, %1, %2;" : "+r"(acc) : "r"(a), "r"(b));
#elif OPERATION == OP_DP2A
  asm volatile("dp2a.lo.s32.s32 %0, %1, %2, %0;" : "+r"(acc) : "r"(a), "r"(b));
#endif
}

// out     one int per thread
// clocks  one per block: those of its loop
extern "C" __global__ void alu(int* out, long long* clocks, int iterations, int seed) {
  // Random bits, other ones in each thread: equal operands would draw less power than real ones do.
  unsigned state = (blockIdx.x * blockDim.x + threadIdx.x) * 2654435761u + seed;
  Accumulator acc[CHAINS];
  int a[4], b[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    state = state * 1664525u + 1013904223u;
    a[i] = static_cast<int>(state ^ (state >> 13));
    state = state * 1664525u + 1013904223u;
    b[i] = static_cast<int>(state ^ (state >> 13));
  }
#pragma unroll
  for (int c = 0; c < CHAINS; ++c) acc[c] = static_cast<int>(state) + c;
  __syncthreads();
  const long long start = clock64();
#pragma unroll 1
  for (int i = 0; i < iterations; ++i) {
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
#pragma unroll
      for (int c = 0; c < CHAINS; ++c) step(acc[c], a[c % 4], b[(c / 4 + u) % 4]);
    }
  }
  __syncthreads();
  const long long end = clock64();
  Accumulator sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; ++c) sum += acc[c];
  int stored = static_cast<int>(sum);
  if (sizeof(sum) > 4) stored ^= static_cast<int>(static_cast<long long>(sum) >> 32);
  out[blockIdx.x * blockDim.x + threadIdx.x] = stored;
  if (threadIdx.x == 0) clocks[blockIdx.x] = end - start;
}
