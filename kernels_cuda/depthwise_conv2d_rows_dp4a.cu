// DEPTHWISE_CONV_2D of 3x3 and 5x5 windows with stride 1 or 2 on dp4a: a thread walks down the image.
//
//   y[p, c] = clamp(zp_y + requantize(bias[c] + sum_t x[p, t, c] * w[c, t]))      t: taps of pixel p's window
//
// A thread owns four neighbouring channels, one word of every pixel, and TILE_W neighbouring output columns.
// It reads every input row once and adds it to all output rows that it belongs to: LIVE rows of sums are
// under way; the oldest is finished and stored, and the next takes its place.
//
//   thread = ((image * row_groups + row group) * column_groups + column group) * words + word
//
// so that neighbouring threads read neighbouring words, whatever the channel count is.
//
// dp4a wants four taps of one channel in a word; memory has four channels of one pixel. Pairs of the pixels
// p(0), p(1), ... of a row are interleaved, and two pairs make one word for each of the four channels:
//
//   word(s)[c] = p(s).c  p(s+1).c  p(s+2).c  p(s+3).c      s even; an odd one from its two even neighbours
//
// An output whose window starts at p(s) then takes, of a row w0 w1 ... of weights,
//
//   3 wide, stride 1   s even: word(s) by w0 w1 w2 0;  s odd: word(s - 1) by 0 w0 w1 w2
//   3 wide, stride 2   word(s) by w0 w1 w2 0
//   5 wide, stride 1   word(s) by w0 w1 w2 w3. The fifth taps go down: p(s+4) of four rows is kept in one
//                      word, column, for w4 of rows 0 to 3; that of row 4 is the last byte of word(s + 1)
//   5 wide, stride 2   word(s) by w0 w1 w2 w3, word(s + 2) by 0 0 w4 0
//
// Layouts. x, y: NHWC codes with image, row and pixel pitches in bytes. weights: int4 (word, term, WEIGHTS),
// component c for channel c of the word: w0 w1 w2 w3 of each row of the window, w3 = 0 if it is 3 wide; of a
// 5 wide one also w4 of rows 0 to 3, and w4 of row 4 in the lowest byte. bias, factors: padded to whole
// words.
//
// Zero points leave the loop: bias already holds -zp_x * sum(w) (see gpuq/cuda/epilogue.py), and pixels
// outside the image are read as zp_x. w is the weight minus its zero point, which for uint8 may take the sum
// of several int8 terms.

#include "epilogue.cuh"

// KERNEL       height and width of the window: 3 or 5
// STRIDE       along both axes: 1 or 2
// TILE_W       output columns of a thread, even
// THREADS      of a block
// MIN_BLOCKS   blocks that share a multiprocessor: bounds the registers of a thread
// VEC          4: a pixel's channels are read as words; 1: byte by byte, for any channel count and alignment
// TERMS        int8 terms of a weight: 1; more for some uint8 weights
// and those of epilogue.cuh

// Pixels of an input row that a thread reads, and pairs of them; the last may lack its partner.
#define PIXELS ((TILE_W - 1) * STRIDE + KERNEL)
#define PAIRS ((PIXELS + 1) / 2)
// Output rows that one input row may belong to, and input rows after which each has had every place.
#define LIVE ((KERNEL + STRIDE - 1) / STRIDE)
#define PERIOD (LIVE * STRIDE)
// Words of weights per term and channel.
#define WEIGHTS (KERNEL == 3 ? 3 : 7)
// w4 meets one word per column of four rows.
#define COLUMN (KERNEL == 5 && STRIDE == 1)
// Second words of each row of the window, made from those in memory: 0 w0 w1 w2, or 0 0 w4 0.
#define SECOND ((KERNEL == 3 && STRIDE == 1) || (KERNEL == 5 && STRIDE == 2))

// Four channels of one pixel; `channels` of them exist, which only single bytes ask about.
__device__ __forceinline__ unsigned load_pixel(const unsigned char* source, int channels) {
#if VEC == 4
  return *reinterpret_cast<const unsigned*>(source);
#else
  unsigned word = source[0];
  if (channels > 1) word |= static_cast<unsigned>(source[1]) << 8;
  if (channels > 2) word |= static_cast<unsigned>(source[2]) << 16;
  if (channels > 3) word |= static_cast<unsigned>(source[3]) << 24;
  return word;
#endif
}

// The column, or the nearest one in the image.
__device__ __forceinline__ int column_inside(int column, int in_w) {
  return column < 0 ? 0 : column < in_w ? column : in_w - 1;
}

// rows: output rows of a thread. items: images * row_groups * column_groups * words.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    depthwise_conv2d_rows_dp4a(const unsigned char* __restrict__ x, long long x_image_pitch, int x_row_pitch,
                               int x_pixel_pitch, const int4* __restrict__ weights,
                               const int4* __restrict__ bias, const Factor* __restrict__ factors,
                               unsigned char* __restrict__ y, long long y_image_pitch, int y_row_pitch,
                               int y_pixel_pitch, int in_h, int in_w, int channels, int out_h, int out_w,
                               int pad_top, int pad_left, int words, int rows, int row_groups,
                               int column_groups, int items, int x_zero_point, int out_zero_point,
                               int act_min, int act_max, const unsigned char* __restrict__ residual,
                               const int* __restrict__ fused, int vector_store) {
  const unsigned item = blockIdx.x * THREADS + threadIdx.x;
  if (item >= static_cast<unsigned>(items)) return;
  const int word = static_cast<int>(item % words);
  const unsigned strip = item / words;
  const int first_column = static_cast<int>(strip % column_groups) * TILE_W;
  const unsigned group = strip / column_groups;
  const int first_row = static_cast<int>(group % row_groups) * rows;
  const long long image = group / row_groups;

  const int left = first_column * STRIDE - pad_left;
  int ih = first_row * STRIDE - pad_top;
  const int outputs = first_row + rows < out_h ? rows : out_h - first_row;
  const int last_ih = ih + (outputs - 1) * STRIDE + KERNEL - 1;
  // Behind the last row to be read; 0 where all of them lie above the image.
  const int rows_end = last_ih < 0 ? 0 : last_ih < in_h ? last_ih + 1 : in_h;
  const int stored_columns = out_w - first_column;
  const int stored_channels = channels - 4 * word;
  const unsigned zero_point_word = static_cast<unsigned>(x_zero_point & 0xff) * 0x01010101u;

  // Most strips lie within the image.
  const bool inside = left >= 0 && left + PIXELS <= in_w;
  const bool whole = vector_store && stored_columns >= TILE_W;

  const unsigned char* source = x + (image * x_image_pitch + static_cast<long long>(ih) * x_row_pitch +
                                     static_cast<long long>(left) * x_pixel_pitch + 4 * word);
  long long offset = image * y_image_pitch + static_cast<long long>(first_row) * y_row_pitch +
                     static_cast<long long>(first_column) * y_pixel_pitch + 4 * word;

  // The strip's pixels of row ih; zero points beside the image, and beyond the strip's last row.
  unsigned pixels[PIXELS];
  auto load_row = [&]() {
    const bool row_inside = static_cast<unsigned>(ih) < static_cast<unsigned>(rows_end);
    if (row_inside && inside) {
      const unsigned char* pixel = source;
#pragma unroll
      for (int p = 0; p < PIXELS; ++p) {
        pixels[p] = load_pixel(pixel, stored_channels);
        pixel += x_pixel_pitch;
      }
    } else if (row_inside) {
      // Beside the image the nearest column is read: fewer branches, and no address is kept in a register.
#pragma unroll
      for (int p = 0; p < PIXELS; ++p) {
        const int column = column_inside(left + p, in_w);
        pixels[p] =
            load_pixel(source + static_cast<long long>(column - left) * x_pixel_pitch, stored_channels);
        if (column != left + p) pixels[p] = zero_point_word;
      }
    } else {
#pragma unroll
      for (int p = 0; p < PIXELS; ++p) pixels[p] = zero_point_word;
    }
  };
  load_row();

  // [part][channel]; the parts are those of memory, then the second words.
  int w[TERMS][WEIGHTS + (SECOND ? KERNEL : 0)][4];
#pragma unroll
  for (int term = 0; term < TERMS; ++term) {
#pragma unroll
    for (int part = 0; part < WEIGHTS; ++part) {
      const int4 four = weights[(word * TERMS + term) * WEIGHTS + part];
      w[term][part][0] = four.x;
      w[term][part][1] = four.y;
      w[term][part][2] = four.z;
      w[term][part][3] = four.w;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#if COLUMN
      // The last byte of a word.
      w[term][KERNEL + 1][c] = static_cast<int>(static_cast<unsigned>(w[term][KERNEL + 1][c]) << 24);
#elif KERNEL == 5
#pragma unroll
      for (int kh = 0; kh < KERNEL; ++kh) {
        const unsigned w4 = static_cast<unsigned>(w[term][KERNEL + kh / 4][c]) >> (8 * (kh % 4)) & 0xff;
        w[term][WEIGHTS + kh][c] = static_cast<int>(w4 << 16);
      }
#elif SECOND
#pragma unroll
      for (int kh = 0; kh < KERNEL; ++kh) {
        w[term][WEIGHTS + kh][c] = static_cast<int>(static_cast<unsigned>(w[term][kh][c]) << 8);
      }
#endif
    }
  }
  const int4 four_starts = bias[word];
  const int start[4] = {four_starts.x, four_starts.y, four_starts.z, four_starts.w};
  Factor factor[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) factor[c] = factors[4 * word + c];

  // Places hold nothing of use until the first output row takes one: what rows above the strip's first would
  // get is never stored.
  int sums[LIVE][TILE_W][4] = {};
#if COLUMN
  unsigned column[TILE_W][4] = {};
#endif

  for (int first = 0;; first += PERIOD) {
#pragma unroll
    for (int phase = 0; phase < PERIOD; ++phase) {
      // Channels 0 and 1 of each pair of pixels, channels 2 and 3.
      unsigned pair[PAIRS][2];
#pragma unroll
      for (int k = 0; k < PIXELS / 2; ++k) {
        pair[k][0] = byte_perm(pixels[2 * k], pixels[2 * k + 1], 0x5140);
        pair[k][1] = byte_perm(pixels[2 * k], pixels[2 * k + 1], 0x7362);
      }
      if (PIXELS % 2 != 0) pair[PAIRS - 1][0] = pixels[PIXELS - 1];

      // The next row is on its way while this one is computed.
      const bool last = ih == last_ih;
      ++ih;
      source += x_row_pitch;
      load_row();

      // The output row that gets its last input row now.
      const int finished = (phase + LIVE * STRIDE - (KERNEL - 1)) / STRIDE % LIVE;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        // word(2 * k).
        int even[PAIRS - 1];
#pragma unroll
        for (int k = 0; k < PAIRS - 1; ++k) {
          if (k == PAIRS - 2 && PIXELS % 2 != 0) {
            // A pair and one pixel; its neighbour meets weights of 0.
            const unsigned selector = (c % 2 == 0 ? 0x10u : 0x32u) | (0x44u + 0x11u * c) << 8;
            even[k] = static_cast<int>(byte_perm(pair[k][c / 2], pair[k + 1][0], selector));
          } else {
            even[k] =
                static_cast<int>(byte_perm(pair[k][c / 2], pair[k + 1][c / 2], c % 2 == 0 ? 0x5410 : 0x7632));
          }
        }
#if COLUMN
        // word(2 * k + 1).
        int odd[PAIRS - 2];
#pragma unroll
        for (int k = 0; k < PAIRS - 2; ++k) {
          odd[k] = static_cast<int>(
              byte_perm(static_cast<unsigned>(even[k]), static_cast<unsigned>(even[k + 1]), 0x6321));
        }
#endif
#pragma unroll
        for (int kh = KERNEL - 1; kh >= 0; --kh) {
          if ((phase + PERIOD - kh) % STRIDE != 0) continue;
          const int place = (phase + LIVE * STRIDE - kh) / STRIDE % LIVE;
#pragma unroll
          for (int j = 0; j < TILE_W; ++j) {
            int sum = kh == 0 ? start[c] : sums[place][j][c];
#pragma unroll
            for (int term = 0; term < TERMS; ++term) {
#if KERNEL == 3 && STRIDE == 1
              sum = multiply_add(even[j / 2], w[term][j % 2 * WEIGHTS + kh][c], sum);
#elif KERNEL == 3
              sum = multiply_add(even[j], w[term][kh][c], sum);
#elif STRIDE == 1
              sum = multiply_add(j % 2 == 0 ? even[j / 2] : odd[j / 2], w[term][kh][c], sum);
#else
              sum = multiply_add(even[j], w[term][kh][c], sum);
              sum = multiply_add(even[j + 1], w[term][WEIGHTS + kh][c], sum);
#endif
            }
            sums[place][j][c] = sum;
          }
        }
#if COLUMN
#pragma unroll
        for (int j = 0; j < TILE_W; ++j) {
          const int next = j % 2 == 0 ? odd[j / 2] : even[(j + 1) / 2];
#pragma unroll
          for (int term = 0; term < TERMS; ++term) {
            sums[finished][j][c] =
                multiply_add(static_cast<int>(column[j][c]), w[term][KERNEL][c], sums[finished][j][c]);
            sums[finished][j][c] = multiply_add(next, w[term][KERNEL + 1][c], sums[finished][j][c]);
          }
          column[j][c] = byte_perm(column[j][c], static_cast<unsigned>(next), 0x7321);
        }
#endif
      }

      if ((phase + PERIOD - (KERNEL - 1)) % STRIDE == 0 && first + phase >= KERNEL - 1) {
        unsigned codes[TILE_W];
#pragma unroll
        for (int j = 0; j < TILE_W; ++j) {
          codes[j] = codes_of(sums[finished][j], factor, out_zero_point, act_min, act_max);
        }
        if (whole) {
#pragma unroll
          for (int j = 0; j < TILE_W; ++j) {
            const long long at = offset + static_cast<long long>(j) * y_pixel_pitch;
            *reinterpret_cast<unsigned*>(y + at) = fused_word(codes[j], residual + at, 4, true, fused);
          }
        } else {
#pragma unroll
          for (int j = 0; j < TILE_W; ++j) {
            if (j >= stored_columns) continue;
            const long long at = offset + static_cast<long long>(j) * y_pixel_pitch;
            store_codes(y + at, fused_word(codes[j], residual + at, stored_channels, vector_store, fused),
                        stored_channels, vector_store);
          }
        }
        offset += y_row_pitch;
      }
      if (last) return;
    }
  }
}
