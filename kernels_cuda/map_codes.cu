// Every function of one 8-bit code: y[i] = table[x[i]], the table's 256 entries computed on the host.
//
// Requantization between 8-bit types, activations and float-defined functions alike: their bits cannot depend
// on the GPU. A thread maps 16 neighbouring codes. The table is looked up by the code's byte as it lies in
// memory, so int8 codes begin at 128.

#include "portable.cuh"

// A rule of blocks has a second table for what follows the last whole block of a run: elements `whole` to
// `run` - 1 of each.
//
// REST      1: there is a second table
// VECTOR    1: x and y are multiples of 16; 0: any address
// THREADS   of a block, at least 128

extern "C" __global__ void __launch_bounds__(THREADS)
    map_codes(const unsigned char* __restrict__ x, const unsigned* __restrict__ table,
              unsigned char* __restrict__ y, long long elements, int run, int whole) {
  SHARED(unsigned, words, [64 * (1 + REST)]);
  if (threadIdx.x < 64 * (1 + REST)) words[threadIdx.x] = table[threadIdx.x];
  __syncthreads();
  const unsigned char* const codes = reinterpret_cast<const unsigned char*>(words);

  const long long first = 16 * (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x);
  if (first >= elements) return;
  // Sixteen that all lie in whole blocks.
  const bool together = !REST || first % run + 16 <= whole;
  if (VECTOR && elements - first >= 16 && together) {
    const int4 sixteen = *reinterpret_cast<const int4*>(x + first);
    const int in[4] = {sixteen.x, sixteen.y, sixteen.z, sixteen.w};
    int out[4];
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      unsigned mapped = 0;
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) {
        mapped |= static_cast<unsigned>(codes[static_cast<unsigned>(in[word]) >> (8 * byte) & 255])
                  << (8 * byte);
      }
      out[word] = static_cast<int>(mapped);
    }
    *reinterpret_cast<int4*>(y + first) = make_int4(out[0], out[1], out[2], out[3]);
    return;
  }
#if REST
  int position = static_cast<int>(first % run);
  for (int i = 0; i < 16 && first + i < elements; ++i) {
    y[first + i] = codes[(position < whole ? 0 : 256) + x[first + i]];
    position = position + 1 == run ? 0 : position + 1;
  }
#else
  for (int i = 0; i < 16 && first + i < elements; ++i) y[first + i] = codes[x[first + i]];
#endif
}
