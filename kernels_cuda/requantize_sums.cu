// The second half of a split convolution: int32 sums become codes.
//
//   y[p, o] = clamp(zp_y + requantize(bias[o] + sum over splits of sums[split, p, o]))
//
// sums: (splits, pixels, channels) int32, contiguous. y: NHWC codes with image, row and pixel pitches. bias
// and factors are laid out as the convolution packs them: groups of group_c channels, each padded to
// padded_c. One thread makes one code; neighbouring threads take neighbouring channels.

#include "epilogue.cuh"

// THREADS   threads of a block
// and those of epilogue.cuh

extern "C" __global__ void __launch_bounds__(THREADS)
    requantize_sums(const int* __restrict__ sums, const int* __restrict__ bias,
                    const Factor* __restrict__ factors, int splits, unsigned char* __restrict__ y,
                    long long y_image_pitch, int y_row_pitch, int y_pixel_pitch, long long elements,
                    int out_h, int out_w, int channels, int group_c, int padded_c, int out_zero_point,
                    int act_min, int act_max, const unsigned char* __restrict__ residual,
                    const int* __restrict__ fused) {
  const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= elements) return;
  const int channel = static_cast<int>(index % channels);
  const long long pixel = index / channels;
  const int ow = static_cast<int>(pixel % out_w);
  const long long row = pixel / out_w;
  const int oh = static_cast<int>(row % out_h);
  const long long image = row / out_h;
  const int packed = channel / group_c * padded_c + channel % group_c;
  unsigned acc = static_cast<unsigned>(bias[packed]);
  for (int split = 0; split < splits; ++split) acc += static_cast<unsigned>(sums[split * elements + index]);
  const int code = clamped_code(static_cast<int>(acc), factors[packed], out_zero_point, act_min, act_max);
  const long long offset = image * y_image_pitch + static_cast<long long>(oh) * y_row_pitch +
                           static_cast<long long>(ow) * y_pixel_pitch + channel;
  unsigned stored = static_cast<unsigned char>(saturated_code(code));
#if FUSED_SUM
  stored = fused_codes<1>(stored, residual[offset], fused);
#elif FUSED_MAP
  stored = fused_codes<1>(stored, 0, fused);
#endif
  y[offset] = static_cast<unsigned char>(stored);
}
