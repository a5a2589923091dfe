// CONV_2D of float32 as an implicit GEMM; FULLY_CONNECTED is the convolution of one pixel by one tap.
//
//   y[m, o] = clamp(bias[o] + sum_k x[m, k] * w[o, k])      k in order, each product and sum rounded, the
//   bias last
//
// m, o, k as in conv2d_igemm_dp4a.cu. A vehicle for calibration, not the product: no fused multiply-add, for
// the reference kernels have none.
//
// Layouts. x: NHWC with image, row and pixel pitches in bytes. w: (O, K). y: NHWC with pitches. Pixels
// outside the image are 0, which changes no sum: none is ever -0.
//
// A block makes 64 pixels times 64 channels of a group, a thread 4 times 4, 16 apart.

#include "float32.cuh"

#define BM 64
#define BN 64
#define BK 16
#define THREADS 256
#define PASSES (BM * BK / THREADS)

// Grid: (pixel tiles, column tiles, groups). k_table: per k {row offset in the image, column offset, channel,
// 0}.
extern "C" __global__ void __launch_bounds__(THREADS)
    conv2d_float32(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                   int x_pixel_pitch, const float* __restrict__ weights, const int4* __restrict__ k_table,
                   const float* __restrict__ bias, unsigned char* __restrict__ y, long long y_image_pitch,
                   int y_row_pitch, int y_pixel_pitch, int pixels, int in_h, int in_w, int group_in_c,
                   int out_h, int out_w, int group_out_c, int stride_h, int stride_w, int pad_top,
                   int pad_left, int depth, float low, float high) {
  SHARED(float, As, [BK][BM + 1]);
  SHARED(float, Bs, [BK][BN + 1]);
  const int thread = static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(blockIdx.z);
  const int first_pixel = static_cast<int>(blockIdx.x) * BM;
  const int first_column = static_cast<int>(blockIdx.y) * BN;

  // This thread loads one k of PASSES pixels and of as many channels.
  const int own_k = thread % BK;
  const unsigned char* window[PASSES];
  int top[PASSES];
  int left[PASSES];
#pragma unroll
  for (int pass = 0; pass < PASSES; ++pass) {
    const int pixel = first_pixel + thread / BK + pass * (THREADS / BK);
    const int ow = pixel % out_w;
    const int oh = pixel / out_w % out_h;
    const long long image = pixel / out_w / out_h;
    top[pass] = pixel < pixels ? oh * stride_h - pad_top : -(1 << 28);
    left[pass] = ow * stride_w - pad_left;
    window[pass] =
        x + (image * x_image_pitch + static_cast<long long>(oh * stride_h - pad_top) * x_row_pitch +
             static_cast<long long>(left[pass]) * x_pixel_pitch + 4LL * group * group_in_c);
  }

  float sums[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
  }
  const int row = thread / 16;
  const int column = thread % 16;

  for (int k0 = 0; k0 < depth; k0 += BK) {
    const int k = k0 + own_k;
    const int4 entry = k < depth ? k_table[k] : make_int4(0, 0, 0, 0);
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
      const int slot = thread / BK + pass * (THREADS / BK);
      const bool inside = k < depth &&
                          static_cast<unsigned>(top[pass] + entry.x) < static_cast<unsigned>(in_h) &&
                          static_cast<unsigned>(left[pass] + entry.y) < static_cast<unsigned>(in_w);
      As[own_k][slot] =
          inside ? *reinterpret_cast<const float*>(
                       window[pass] + (entry.x * x_row_pitch + entry.y * x_pixel_pitch + 4 * entry.z))
                 : 0.0f;
      const int o = first_column + slot;
      Bs[own_k][slot] = k < depth && o < group_out_c
                            ? weights[(static_cast<long long>(group) * group_out_c + o) * depth + k]
                            : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < BK; ++step) {
      float a[4];
      float b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = As[step][row + 16 * i];
        b[i] = Bs[step][column + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = plus_product(sums[i][j], a[i], b[j]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int pixel = first_pixel + row + 16 * i;
    if (pixel >= pixels) continue;
    const long long image = pixel / out_w / out_h;
    unsigned char* const target =
        y + (image * y_image_pitch + static_cast<long long>(pixel / out_w % out_h) * y_row_pitch +
             static_cast<long long>(pixel % out_w) * y_pixel_pitch);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int o = first_column + column + 16 * j;
      if (o >= group_out_c) continue;
      const int channel = group * group_out_c + o;
      const float sum = bias == nullptr ? sums[i][j] : __fadd_rn(sums[i][j], bias[channel]);
      reinterpret_cast<float*>(target)[channel] = clamped(sum, low, high);
    }
  }
}
