// Operators on plain numbers, element by element: y = FUNCTION(a, b, c), with broadcasting.
//
// Integers wrap; every step of float32 is rounded by itself, as the runtimes' reference kernels write it.
// Tensors are walked by up to 6 dimensions, a thread makes one element; strides are in bytes, 0 where a
// tensor is broadcast. Functions of one or two operands leave the others alone.

#include "float32.cuh"
#include "requantize.cuh"
#include "status.cuh"

// FUNCTION      one of the functions below
// OPERANDS      1, 2 or 3
// TABLES        what c points to; 0: an operand, or nothing
//               TABLES_COMPARED: 65,536 int32 for each of two operands, what is compared in place of int16
//               codes, by their bits
//               TABLES_DIVIDED: the words of DivCodes
// A, B, C, Y    types of the operands and of the output: C's, of 1, 4 or 8 bytes
// CLAMP         1: an activation of float32 follows, its bounds in `low` and `high`
// CHECKS        1: b is a divisor that may be 0, which is refused, and 1 taken (of codes one step)
// THREADS       of a block

#define TABLES_COMPARED 1
#define TABLES_DIVIDED 2

// -------------------------------------------------------------------------------------------- of one number

// C's conversion to integers, modulo 2^bits.
struct Cast {
  template <class T>
  static __device__ __forceinline__ Y apply(T a, float) {
    return static_cast<Y>(a);
  }
};
struct CastToBool {
  template <class T>
  static __device__ __forceinline__ Y apply(T a, float) {
    return a != 0 ? 1 : 0;
  }
};
struct Neg {
  static __device__ __forceinline__ float apply(float a, float) { return -a; }
  static __device__ __forceinline__ int8_t apply(int8_t a, float) { return static_cast<int8_t>(-a); }
  static __device__ __forceinline__ int16_t apply(int16_t a, float) { return static_cast<int16_t>(-a); }
  static __device__ __forceinline__ int apply(int a, float) {
    return static_cast<int>(0u - static_cast<unsigned>(a));
  }
  static __device__ __forceinline__ int64_t apply(int64_t a, float) {
    return static_cast<int64_t>(0ull - static_cast<uint64_t>(a));
  }
};
struct Abs {
  static __device__ __forceinline__ float apply(float a, float) { return fabsf(a); }
};
struct Sqrt {
  static __device__ __forceinline__ float apply(float a, float) { return __fsqrt_rn(a); }
};
struct Rsqrt {
  static __device__ __forceinline__ float apply(float a, float) { return __fdiv_rn(1.0f, __fsqrt_rn(a)); }
};
// The number itself, for an activation to clamp.
struct Same {
  static __device__ __forceinline__ float apply(float a, float) { return a; }
};
struct HardSwish {
  static __device__ __forceinline__ float apply(float a, float) {
    const float shifted = fminf(fmaxf(__fadd_rn(a, 3.0f), 0.0f), 6.0f);
    return __fdiv_rn(__fmul_rn(a, shifted), 6.0f);
  }
};
struct LeakyRelu {
  static __device__ __forceinline__ float apply(float a, float alpha) {
    return a > 0.0f ? a : __fmul_rn(a, alpha);
  }
};

// Both in float64, rounded once. Beyond the bounds nothing but the end is left.
struct Tanh {
  static __device__ __forceinline__ float apply(float a, float) {
    const double power = expm1_of(__dmul_rn(2.0, fmin(fabs(static_cast<double>(a)), 20.0)));
    const double size = __ddiv_rn(power, __dadd_rn(power, 2.0));
    return a != a ? a : __double2float_rn(copysign(size, static_cast<double>(a)));
  }
};
struct Elu {
  static __device__ __forceinline__ float apply(float a, float) {
    return a < 0.0f ? __double2float_rn(expm1_of(fmax(static_cast<double>(a), -40.0))) : a;
  }
};

// ------------------------------------------------------------------------------------------- of two numbers

#define BITWISE(name, operation)                                                                \
  struct name {                                                                                 \
    static __device__ __forceinline__ int apply(int a, int b) {                                 \
      return static_cast<int>(static_cast<unsigned>(a) operation static_cast<unsigned>(b));     \
    }                                                                                           \
    static __device__ __forceinline__ int64_t apply(int64_t a, int64_t b) {                     \
      return static_cast<int64_t>(static_cast<uint64_t>(a) operation static_cast<uint64_t>(b)); \
    }                                                                                           \
    static __device__ __forceinline__ float apply(float a, float b) { return rounded(a, b); }   \
    static __device__ __forceinline__ float rounded(float a, float b);                          \
  };
BITWISE(Add, +)
BITWISE(Sub, -)
BITWISE(Mul, *)
__device__ __forceinline__ float Add::rounded(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float Sub::rounded(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float Mul::rounded(float a, float b) { return __fmul_rn(a, b); }

struct SquaredDifference {
  template <class T>
  static __device__ __forceinline__ T apply(T a, T b) {
    const T difference = Sub::apply(a, b);
    return Mul::apply(difference, difference);
  }
};
// Integers: no divisor is 0. The lowest number by -1 wraps.
struct Div {
  static __device__ __forceinline__ float apply(float a, float b) { return __fdiv_rn(a, b); }
  static __device__ __forceinline__ int apply(int a, int b) { return b == -1 ? Neg::apply(a, 0.0f) : a / b; }
};
struct FloorDiv {
  static __device__ __forceinline__ float apply(float a, float b) { return floorf(__fdiv_rn(a, b)); }
  static __device__ __forceinline__ int apply(int a, int b) {
    if (b == -1) return Neg::apply(a, 0.0f);
    const int quotient = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
  }
};
// Of codes: see gpuq/ops/div.py. words: zero points of a, b and y, multiplier and shift of the factor, the
// lowest and the highest code, 0; then {r, n} of each divisor's reciprocal r * 2^-31 * 2^-n, by its bits.
struct DivCodes {
  static __device__ __forceinline__ int apply(int a, int b, unsigned bits, const int* words) {
    const int dividend = b < words[1] ? words[0] - a : a - words[0];
    const int headroom = __clz(dividend < 0 ? ~dividend : dividend) - 1;
    const int high = rounding_doubling_high_mul(wrapping_shift_left(dividend, headroom), words[8 + 2 * bits]);
    const int scaled = rounding_doubling_high_mul(high, words[3]);
    const int right = words[9 + 2 * bits] + headroom - words[4];  // -30 to 77
    long long code = scaled;
    if (right <= 0) {
      code *= 1LL << -right;
    } else {
      // As rounding_divide_by_pot(); nothing is left of an int32 beyond 33 bits.
      const int exponent = right < 40 ? right : 40;
      const long long mask = (1LL << exponent) - 1;
      const long long threshold = (mask >> 1) + (code < 0 ? 1 : 0);
      code = (code >> exponent) + ((code & mask) > threshold ? 1 : 0);
    }
    code += words[2];
    return static_cast<int>(code < words[5] ? words[5] : code > words[6] ? words[6] : code);
  }
};
struct Prelu {
  static __device__ __forceinline__ float apply(float a, float b) { return a >= 0.0f ? a : __fmul_rn(a, b); }
};
// A number that is not one wins.
struct Maximum {
  template <class T>
  static __device__ __forceinline__ T apply(T a, T b) {
    return a > b || a != a ? a : b;
  }
};
struct Minimum {
  template <class T>
  static __device__ __forceinline__ T apply(T a, T b) {
    return a < b || a != a ? a : b;
  }
};

#define COMPARISON(name, operation)                             \
  struct name {                                                 \
    template <class T>                                          \
    static __device__ __forceinline__ uint8_t apply(T a, T b) { \
      return a operation b ? 1 : 0;                             \
    }                                                           \
  };
COMPARISON(Equal, ==)
COMPARISON(NotEqual, !=)
COMPARISON(Greater, >)
COMPARISON(GreaterEqual, >=)
COMPARISON(Less, <)
COMPARISON(LessEqual, <=)

// ----------------------------------------------------------------------------------------- of three numbers

struct Select {
  template <class T>
  static __device__ __forceinline__ T apply(uint8_t condition, T a, T b) {
    return condition ? a : b;
  }
};

// Sizes and strides of dimension 0, the innermost one, come first; dimensions that are not there have size 1.
// parameter: alpha of LEAKY_RELU. status: see status.cuh; with CHECKS alone.
extern "C" __global__ void __launch_bounds__(THREADS)
    numbers(const unsigned char* __restrict__ a, const unsigned char* __restrict__ b,
            const unsigned char* __restrict__ c, unsigned char* __restrict__ y, long long elements,
            int size_0, int size_1, int size_2, int size_3, int size_4, long long a_0, long long a_1,
            long long a_2, long long a_3, long long a_4, long long a_5, long long b_0, long long b_1,
            long long b_2, long long b_3, long long b_4, long long b_5, long long c_0, long long c_1,
            long long c_2, long long c_3, long long c_4, long long c_5, long long y_0, long long y_1,
            long long y_2, long long y_3, long long y_4, long long y_5, float parameter, float low,
            float high, int* __restrict__ status) {
  const long long element = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  if (element >= elements) return;
  const int sizes[5] = {size_0, size_1, size_2, size_3, size_4};
  const long long a_strides[6] = {a_0, a_1, a_2, a_3, a_4, a_5};
  const long long b_strides[6] = {b_0, b_1, b_2, b_3, b_4, b_5};
  const long long c_strides[6] = {c_0, c_1, c_2, c_3, c_4, c_5};
  const long long y_strides[6] = {y_0, y_1, y_2, y_3, y_4, y_5};
  long long rest = element;
#pragma unroll
  for (int d = 0; d < 6; ++d) {
    const long long index = d < 5 ? rest % sizes[d < 5 ? d : 0] : rest;
    if (d < 5) rest /= sizes[d];
    a += index * a_strides[d];
    b += index * b_strides[d];
    c += index * c_strides[d];
    y += index * y_strides[d];
  }
#if OPERANDS == 1
  Y result = FUNCTION::apply(*reinterpret_cast<const A*>(a), parameter);
#elif TABLES == TABLES_COMPARED
  const int* const tables = reinterpret_cast<const int*>(c);
  Y result = FUNCTION::apply(tables[*reinterpret_cast<const uint16_t*>(a)],
                             tables[65536 + *reinterpret_cast<const uint16_t*>(b)]);
#elif TABLES == TABLES_DIVIDED
  const int* const words = reinterpret_cast<const int*>(c);
  const B divisor = *reinterpret_cast<const B*>(b);
  const unsigned bits = sizeof(B) == 1 ? static_cast<uint8_t>(divisor) : static_cast<uint16_t>(divisor);
#if CHECKS
  if (divisor == words[1]) refuse(status, 1);
#endif
  const Y result = static_cast<Y>(FUNCTION::apply(*reinterpret_cast<const A*>(a), divisor, bits, words));
#elif OPERANDS == 2
  B second = *reinterpret_cast<const B*>(b);
#if CHECKS
  if (second == 0) {
    refuse(status, 1);
    second = 1;
  }
#endif
  Y result = FUNCTION::apply(*reinterpret_cast<const A*>(a), second);
#else
  Y result = FUNCTION::apply(*reinterpret_cast<const A*>(a), *reinterpret_cast<const B*>(b),
                             *reinterpret_cast<const C*>(c));
#endif
#if CLAMP
  // A number that is not one stays what it is, and -0 becomes a bound of 0.
  result = result <= low ? low : result >= high ? high : result;
#endif
  *reinterpret_cast<Y*>(y) = result;
}
