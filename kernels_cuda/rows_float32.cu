// Operators on float32 that sum up a row in order: SOFTMAX, L2_NORMALIZATION; and LOGISTIC, for its
// exponential.
//
//   SOFTMAX    y[i] = e[i] / sum e,  e[i] = exp((x[i] - max) * beta)
//   L2         y[i] = x[i] / max(sqrt(sum x^2), 1e-6)
//   LOGISTIC   y = 1 / (1 + exp(-x)); 1 above a cutoff, exp(x) below another
//
// A thread makes a row, one element after another, as the reference kernels add them.

#include "float32.cuh"

// KIND      one of the kinds above
// THREADS   of a block

#define KIND_SOFTMAX 0
#define KIND_L2 1
#define KIND_LOGISTIC 2

// Rows of x and y are contiguous; of LOGISTIC a row is one element. parameter: beta.
extern "C" __global__ void __launch_bounds__(THREADS)
    rows_float32(const float* __restrict__ x, const double* __restrict__ parts, float* __restrict__ y,
                 long long rows, int depth, float parameter) {
  const long long row = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (row >= rows) return;
#if KIND == KIND_LOGISTIC
  const float value = x[row];
  const float middle = __fdiv_rn(1.0f, __fadd_rn(1.0f, expf_of(-value, parts)));
  y[row] = value > 16.619047164916992188f ? 1.0f : value < -9.0f ? expf_of(value, parts) : middle;
#else
  const float* const source = x + row * depth;
  float* const target = y + row * depth;
#if KIND == KIND_SOFTMAX
  float largest = source[0];
  for (int i = 1; i < depth; ++i) {
    largest = largest > source[i] || largest != largest ? largest : source[i];
  }
  float total = 0.0f;
  for (int i = 0; i < depth; ++i) {
    const float term = expf_of(__fmul_rn(__fsub_rn(source[i], largest), parameter), parts);
    total = i == 0 ? term : __fadd_rn(total, term);
    target[i] = term;
  }
  for (int i = 0; i < depth; ++i) target[i] = __fdiv_rn(target[i], total);
#else
  float total = 0.0f;
  for (int i = 0; i < depth; ++i) total = plus_product(total, source[i], source[i]);
  const float length = __fsqrt_rn(total);
  const float divisor = length > 1e-6f || length != length ? length : 1e-6f;
  for (int i = 0; i < depth; ++i) target[i] = __fdiv_rn(source[i], divisor);
#endif
#endif
}
