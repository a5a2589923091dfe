// Each intrinsic applied to a table of operands, one thread for each row; out[function][row].

#include "portable.cuh"

// dp4a of both signednesses and their mix, byte permutations.
extern "C" __global__ void bytes_of_words(int* out, const int* a, const int* b, const int* c, int n) {
  const int i = threadIdx.x;
  const unsigned ua = static_cast<unsigned>(a[i]), ub = static_cast<unsigned>(b[i]),
                 uc = static_cast<unsigned>(c[i]);
  const auto put = [&](int function, unsigned result) { out[function * n + i] = static_cast<int>(result); };
  put(0, static_cast<unsigned>(dp4a(a[i], b[i], c[i])));
  put(1, dp4a_uu(ua, ub, uc));
  put(2, static_cast<unsigned>(dp4a_us(ua, b[i], c[i])));
  put(3, static_cast<unsigned>(
             __dp4a(*reinterpret_cast<const char4*>(a + i), *reinterpret_cast<const char4*>(b + i), c[i])));
  put(4, byte_perm(ua, ub, uc & 0x7777));
  put(5, prmt(ua, ub, uc));
  put(6, pack_saturated_s8(a[i] >> 20, b[i] >> 23, c[i], a[i] >> 24));
  put(7, pack_saturated_u8(a[i] >> 20, b[i] >> 23, c[i], a[i] >> 24));
}

extern "C" __global__ void integers(int* out, long long* out64, const int* a, const int* b, const int* c,
                                    const long long* wide, int n) {
  const int i = threadIdx.x;
  const unsigned ua = static_cast<unsigned>(a[i]), ub = static_cast<unsigned>(b[i]),
                 uc = static_cast<unsigned>(c[i]);
  const auto put = [&](int function, unsigned result) { out[function * n + i] = static_cast<int>(result); };
  put(0, static_cast<unsigned>(__mulhi(a[i], b[i])));
  put(1, __umulhi(ua, ub));
  put(2, __funnelshift_l(ua, ub, uc));
  put(3, __funnelshift_r(ua, ub, uc));
  put(4, __funnelshift_lc(ua, ub, uc & 63));
  put(5, __funnelshift_rc(ua, ub, uc & 63));
  put(6, static_cast<unsigned>(__clz(a[i])));
  put(7, static_cast<unsigned>(__popc(ua)));
  put(8, static_cast<unsigned>(__ffs(a[i])));
  put(9, __brev(ua));
  put(10, static_cast<unsigned>(min(a[i], b[i])));
  put(11, max(ua, ub));
  put(12, max(a[i], ub));
  put(13, static_cast<unsigned>(__clzll(wide[i])));
  out64[i] = __mul64hi(wide[i], wide[n - 1 - i]);
  out64[n + i] = static_cast<long long>(
      __umul64hi(static_cast<unsigned long long>(wide[i]), static_cast<unsigned long long>(wide[n - 1 - i])));
}

extern "C" __global__ void from_float(int* out, long long* out64, const float* x, int n) {
  const int i = threadIdx.x + blockIdx.x * blockDim.x;
  if (i >= n) return;
  out[i] = __float2int_rn(x[i]);
  out[n + i] = __float2int_rz(x[i]);
  out[2 * n + i] = __float2int_rd(x[i]);
  out[3 * n + i] = __float2int_ru(x[i]);
  out[4 * n + i] = static_cast<int>(__float2uint_rn(x[i]));
  out[5 * n + i] = static_cast<int>(__float2uint_rz(x[i]));
  out[6 * n + i] = __float_as_int(rintf(x[i]));
  out64[i] = __float2ll_rn(x[i]);
  out64[n + i] = static_cast<long long>(__float2ull_rz(x[i]));
}

extern "C" __global__ void from_double(int* out, long long* out64, const double* x, int n) {
  const int i = threadIdx.x + blockIdx.x * blockDim.x;
  if (i >= n) return;
  out[i] = __double2int_rn(x[i]);
  out[n + i] = __double2int_rz(x[i]);
  out[2 * n + i] = __double2int_rd(x[i]);
  out[3 * n + i] = __double2int_ru(x[i]);
  out[4 * n + i] = static_cast<int>(__double2uint_rn(x[i]));
  out[5 * n + i] = __float_as_int(__double2float_rn(x[i]));
  out64[i] = __double2ll_rn(x[i]);
  out64[n + i] = static_cast<long long>(__double2ull_rz(x[i]));
  out64[2 * n + i] = __double_as_longlong(rint(x[i]));
}

extern "C" __global__ void rounded(float* out, double* out64, const float* x, const int* k, int n) {
  const int i = threadIdx.x;
  const float a = x[i], b = x[n - 1 - i], c = x[(i + 1) % n];
  out[i] = __fmul_rn(a, b);
  out[n + i] = __fadd_rn(a, b);
  out[2 * n + i] = a * b + c;  // two roundings
  out[3 * n + i] = __fmaf_rn(a, b, c);
  out[4 * n + i] = __int2float_rn(k[i]);
  out[5 * n + i] = __uint2float_rn(static_cast<unsigned>(k[i]));
  out[6 * n + i] = __fdiv_rn(a, b);
  out64[i] = __dmul_rn(__int2double_rn(k[i]), static_cast<double>(a));
}
