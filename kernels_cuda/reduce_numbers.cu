// Reductions of plain numbers over some dimensions, elements in memory's order.
//
//   TOTAL      y = sum x, or (sum x) / divisor      MEAN and SUM of float32, every sum rounded
//   MAX, MIN   y = the largest or smallest x; of float32 the first that is not a number
//
// A thread makes one output. The kept dimensions are up to five loops, the reduced ones up to four, the
// innermost first; strides are in elements.

#include "float32.cuh"

// KIND      one of the kinds above
// NUMBER    float, int, long long
// THREADS   of a block

#define KIND_TOTAL 0
#define KIND_MAX 1
#define KIND_MIN 2

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    reduce_numbers(const NUMBER* __restrict__ x, NUMBER* __restrict__ y, long long outputs, int kept_0,
                   int kept_1, int kept_2, int kept_3, long long x_kept_0, long long x_kept_1,
                   long long x_kept_2, long long x_kept_3, long long x_kept_4, int reduced_0, int reduced_1,
                   int reduced_2, int reduced_3, long long x_reduced_0, long long x_reduced_1,
                   long long x_reduced_2, long long x_reduced_3, float divisor) {
  const long long output = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (output >= outputs) return;
  long long rest = output;
  const NUMBER* source = x + rest % kept_0 * x_kept_0;
  rest /= kept_0;
  source += rest % kept_1 * x_kept_1;
  rest /= kept_1;
  source += rest % kept_2 * x_kept_2;
  rest /= kept_2;
  source += rest % kept_3 * x_kept_3 + rest / kept_3 * x_kept_4;
#if KIND == KIND_TOTAL
  NUMBER found = 0.0f;
#else
  NUMBER found = source[0];
#endif
  for (int r3 = 0; r3 < reduced_3; ++r3) {
    for (int r2 = 0; r2 < reduced_2; ++r2) {
      for (int r1 = 0; r1 < reduced_1; ++r1) {
        const NUMBER* const row = source + (r3 * x_reduced_3 + r2 * x_reduced_2 + r1 * x_reduced_1);
        for (int r0 = 0; r0 < reduced_0; ++r0) {
          const NUMBER number = row[r0 * x_reduced_0];
#if KIND == KIND_TOTAL
          found = __fadd_rn(found, number);
#elif KIND == KIND_MAX
          found = found > number || found != found ? found : number;
#else
          found = found < number || found != found ? found : number;
#endif
        }
      }
    }
  }
#if KIND == KIND_TOTAL
  y[output] = divisor == 1.0f ? found : __fdiv_rn(found, divisor);
#else
  y[output] = found;
#endif
}
