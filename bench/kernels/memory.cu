// Reads, fills and compares device memory; sizes in words of 16 bytes.
//
// Compiled with
//     UNROLL   independent loads of a thread
//     THREADS  of a block

__device__ __forceinline__ int4 load_l2(const int4* address) {
  int4 v;  // .cg: not kept in the L1 cache, which would answer the second pass
  asm volatile("ld.global.cg.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// Reads all words `passes` times; out gets one int per thread. words is a multiple of gridDim.x * THREADS *
// UNROLL.
extern "C" __global__ void __launch_bounds__(THREADS)
    read_words(const int4* from, int* out, long long words, int passes) {
  const long long step = static_cast<long long>(gridDim.x) * THREADS * UNROLL;
  int sum = 0;
#pragma unroll 1
  for (int pass = 0; pass < passes; ++pass) {
#pragma unroll 1
    for (long long start = 0; start < words; start += step) {
      const int4* address =
          from + start + static_cast<long long>(blockIdx.x) * THREADS * UNROLL + threadIdx.x;
      int4 v[UNROLL];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) v[u] = load_l2(address + u * THREADS);
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) sum ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
    }
  }
  out[blockIdx.x * THREADS + threadIdx.x] = sum;
}

// to[i] = random bits, other ones for each seed.
extern "C" __global__ void __launch_bounds__(THREADS) random_words(int4* to, long long words, int seed) {
  const long long step = static_cast<long long>(gridDim.x) * THREADS;
  for (long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; i < words; i += step) {
    unsigned v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      // A hash of the index (Murmur3's last step): neighbours have nothing in common.
      unsigned h = static_cast<unsigned>(i) * 4u + k + seed * 2654435761u + static_cast<unsigned>(i >> 30);
      h = (h ^ (h >> 16)) * 0x85ebca6bu;
      h = (h ^ (h >> 13)) * 0xc2b2ae35u;
      v[k] = h ^ (h >> 16);
    }
    to[i] = make_int4(v[0], v[1], v[2], v[3]);
  }
}

// Image n of y must be image index[n] of wanted, image_bytes bytes each: count += the bytes that differ.
extern "C" __global__ void __launch_bounds__(THREADS)
    count_differences(const unsigned char* y, const unsigned char* wanted, const int* index,
                      long long image_bytes, unsigned long long* count) {
  const unsigned char* ours = y + blockIdx.y * image_bytes;
  const unsigned char* right = wanted + index[blockIdx.y] * image_bytes;
  unsigned different = 0;
  const long long step = static_cast<long long>(gridDim.x) * THREADS;
  for (long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; i < image_bytes; i += step)
    different += ours[i] != right[i];
  if (different) atomicAdd(count, static_cast<unsigned long long>(different));
}

// The cost of a launch.
extern "C" __global__ void nothing() {}
