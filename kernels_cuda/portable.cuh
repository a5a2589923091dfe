// What kernels need beyond the CUDA language itself: integer names, shared memory, and one small function for
// each PTX instruction that has no intrinsic.
//
// A kernel includes this header and other headers of this folder, nothing else, and contains no inline
// assembly. So the same text compiles in two worlds:
//
//   device  NVRTC, sm_75 and newer; no standard headers there, hence the typedefs below.
//   host    g++ with -DGPUQ_HOST: tests/host_cuda/host_cuda.h supplies the CUDA language and runs each
//           thread as a fiber under ASan and UBSan. There, too, __CUDA_ARCH__ chooses between the paths
//           below.
//
// This is the only header that knows about both.

#pragma once

#ifdef GPUQ_HOST
#include "host_cuda.h"
#else
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif

// --------------------------------------------------------------------------------------------- shared memory
//
// SHARED(type, name, dims) declares an array in static shared memory, inside a function:
//     SHARED(int8_t, As, [2][BM * BK]);
// DYNAMIC_SHARED(type, name) declares `type* const name`, the block's dynamic shared memory, whose size is
// the launch's:
//     DYNAMIC_SHARED(int8_t, stages);
// Both start at a multiple of 16 bytes, whatever the type, so that 16-byte loads and cp_async_16 may be used;
// their contents are undefined (on the host: random).

#ifndef GPUQ_HOST
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims

// One name with one type for all kernels of a source: two `extern __shared__` arrays of different types may
// not share a name.
extern __shared__ __align__(16) unsigned char gpuq_dynamic_shared[];
#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(gpuq_dynamic_shared)
#endif

// ----------------------------------------------------------------------- four bytes at a time: dp4a and prmt
//
// dp4a: c + a.b0 * b.b0 + ... + a.b3 * b.b3, where a and b are four bytes each. The sum wraps modulo 2^32, as
// the accumulators of every runtime do.

// Signed bytes of a, signed bytes of b.
__device__ __forceinline__ int dp4a(int a, int b, int c) { return __dp4a(a, b, c); }

// Unsigned bytes of a, unsigned bytes of b.
__device__ __forceinline__ unsigned dp4a_uu(unsigned a, unsigned b, unsigned c) { return __dp4a(a, b, c); }

// Unsigned bytes of a, signed bytes of b; the intrinsic has no such form.
__device__ __forceinline__ int dp4a_us(unsigned a, int b, int c) {
#ifdef GPUQ_HOST
  return gpuq_host::dp4a_us(a, b, c);
#else
  int sum;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
#endif
}

// dp2a: c + a.h0 * b.b0 + a.h1 * b.b1, where a is two signed halves of 16 bits and b four signed bytes, of
// which _lo takes the lower two and _hi the upper two. Wraps as dp4a does.
__device__ __forceinline__ int dp2a_lo(int a, int b, int c) { return __dp2a_lo(a, b, c); }
__device__ __forceinline__ int dp2a_hi(int a, int b, int c) { return __dp2a_hi(a, b, c); }

// Four bytes chosen from the eight of (b, a), a holding bytes 0 to 3: nibble i of `selector`, 0 to 7, names
// the byte that becomes byte i. A selector with a nibble above 7 is an error; prmt gives that a meaning.
__device__ __forceinline__ unsigned byte_perm(unsigned a, unsigned b, unsigned selector) {
  return __byte_perm(a, b, selector);
}

// As byte_perm, and a nibble of 8 + n gives eight copies of the sign bit of byte n: a sign extension.
__device__ __forceinline__ unsigned prmt(unsigned a, unsigned b, unsigned selector) {
#ifdef GPUQ_HOST
  return gpuq_host::prmt(a, b, selector);
#else
  unsigned bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
  return bytes;
#endif
}

// Four int32 as bytes of one word, each saturated to int8 (to uint8).
__device__ __forceinline__ unsigned pack_saturated_s8(int b0, int b1, int b2, int b3) {
#ifdef GPUQ_HOST
  return gpuq_host::pack_saturated(b0, b1, b2, b3, -128, 127);
#else
  // d = saturated b, saturated a in byte 1, and the lower half of c above them.
  unsigned upper, word;
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, 0;" : "=r"(upper) : "r"(b3), "r"(b2));
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(b1), "r"(b0), "r"(upper));
  return word;
#endif
}
__device__ __forceinline__ unsigned pack_saturated_u8(int b0, int b1, int b2, int b3) {
#ifdef GPUQ_HOST
  return gpuq_host::pack_saturated(b0, b1, b2, b3, 0, 255);
#else
  unsigned upper, word;
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, 0;" : "=r"(upper) : "r"(b3), "r"(b2));
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(b1), "r"(b0), "r"(upper));
  return word;
#endif
}

// Two int32 as halves of one word, each saturated to int16, the first in the lower half.
__device__ __forceinline__ unsigned pack_saturated_s16(int h0, int h1) {
#ifdef GPUQ_HOST
  return gpuq_host::pack_saturated_s16(h0, h1);
#else
  unsigned word;
  asm("cvt.pack.sat.s16.s32 %0, %1, %2;" : "=r"(word) : "r"(h1), "r"(h0));
  return word;
#endif
}

// -------------------------------------------------------------------------------------- a wide multiply-add

// a * b + c in 64 bits, one instruction; wraps. Spelled out because the compiler, when b does not change in a
// loop, widens it outside and multiplies 64 by 64 bits inside.
__device__ __forceinline__ long long mad_wide(int a, int b, long long c) {
#ifdef GPUQ_HOST
  return static_cast<long long>(static_cast<unsigned long long>(static_cast<long long>(a) * b) +
                                static_cast<unsigned long long>(c));
#else
  long long sum;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(sum) : "r"(a), "r"(b), "l"(c));
  return sum;
#endif
}

// 64 bits of two registers, and the upper one back: no instruction at all.
__device__ __forceinline__ long long word_pair(int lower, int upper) {
  return static_cast<long long>(static_cast<unsigned long long>(static_cast<unsigned>(upper)) << 32 |
                                static_cast<unsigned>(lower));
}
__device__ __forceinline__ int upper_word(long long pair) { return static_cast<int>(pair >> 32); }

// --------------------------------------------------------------------------------------------- warp exchange
//
// All lanes of `mask` call it together, each with the same mask.

__device__ __forceinline__ int shfl_sync(unsigned mask, int value, int lane) {
  return __shfl_sync(mask, value, lane);
}
__device__ __forceinline__ int shfl_up_sync(unsigned mask, int value, unsigned delta) {
  return __shfl_up_sync(mask, value, delta);
}
__device__ __forceinline__ int shfl_down_sync(unsigned mask, int value, unsigned delta) {
  return __shfl_down_sync(mask, value, delta);
}
__device__ __forceinline__ int shfl_xor_sync(unsigned mask, int value, int lane_mask) {
  return __shfl_xor_sync(mask, value, lane_mask);
}

// ---------------------------------------------------------- asynchronous copies from global to shared memory
//
// cp_async_N(shared, global) copies N bytes; both addresses must be multiples of N. The _zfill forms read
// only the first `bytes` (0 to N) and write zeros for the rest, so that a guard costs no branch; with 0
// nothing is read, but the address must still be aligned.
//
// A copy has happened only after the thread that asked for it has waited, and other threads see it after a
// barrier that follows the wait:
//     cp_async_16(...); cp_async_commit();      // closes a group: all copies since the last commit
//     cp_async_wait<1>();                       // all but the newest group are there
//     __syncthreads();
//
// Before sm_80 there is no such instruction: the copy is made at once, commit and wait do nothing.
//
// 16 bytes go past L1 (.cg), for a tile is read once by a block; .ca is the only form for 4 and 8 bytes. The
// "memory" clobbers keep the compiler from moving its own shared loads and stores across.

#if __CUDA_ARCH__ < 800

template <class Word>
__device__ __forceinline__ void copy_or_zero(void* shared, const void* global, int bytes) {
  // The whole word or nothing of it is the rule, a ragged end rare.
  if (bytes == sizeof(Word)) {
    *static_cast<Word*>(shared) = *static_cast<const Word*>(global);
  } else {
    for (int i = 0; i < static_cast<int>(sizeof(Word)); ++i) {
      static_cast<uint8_t*>(shared)[i] = i < bytes ? static_cast<const uint8_t*>(global)[i] : 0;
    }
  }
}
__device__ __forceinline__ void cp_async_16_zfill(void* shared, const void* global, int bytes) {
  copy_or_zero<int4>(shared, global, bytes);
}
__device__ __forceinline__ void cp_async_8_zfill(void* shared, const void* global, int bytes) {
  copy_or_zero<int2>(shared, global, bytes);
}
__device__ __forceinline__ void cp_async_4_zfill(void* shared, const void* global, int bytes) {
  copy_or_zero<int>(shared, global, bytes);
}
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
  *static_cast<int4*>(shared) = *static_cast<const int4*>(global);
}
__device__ __forceinline__ void cp_async_8(void* shared, const void* global) {
  *static_cast<int2*>(shared) = *static_cast<const int2*>(global);
}
__device__ __forceinline__ void cp_async_4(void* shared, const void* global) {
  *static_cast<int*>(shared) = *static_cast<const int*>(global);
}
__device__ __forceinline__ void cp_async_commit() {}
template <int kGroupsLeft>
__device__ __forceinline__ void cp_async_wait() {}
__device__ __forceinline__ void cp_async_wait_all() {}

#elif defined(GPUQ_HOST)

inline void cp_async_16_zfill(void* shared, const void* global, int bytes) {
  gpuq_host::cp_async(shared, global, 16, bytes);
}
inline void cp_async_8_zfill(void* shared, const void* global, int bytes) {
  gpuq_host::cp_async(shared, global, 8, bytes);
}
inline void cp_async_4_zfill(void* shared, const void* global, int bytes) {
  gpuq_host::cp_async(shared, global, 4, bytes);
}
inline void cp_async_16(void* shared, const void* global) { gpuq_host::cp_async(shared, global, 16, 16); }
inline void cp_async_8(void* shared, const void* global) { gpuq_host::cp_async(shared, global, 8, 8); }
inline void cp_async_4(void* shared, const void* global) { gpuq_host::cp_async(shared, global, 4, 4); }
inline void cp_async_commit() { gpuq_host::cp_async_commit(); }
template <int kGroupsLeft>
inline void cp_async_wait() {
  static_assert(kGroupsLeft >= 0, "cp_async_wait<N>: N groups may stay pending");
  gpuq_host::cp_async_wait(kGroupsLeft);
}
inline void cp_async_wait_all() { gpuq_host::cp_async_wait_all(); }

#else

// The 32-bit address within the block's shared memory, as the instructions want it.
__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ void cp_async_16_zfill(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_8_zfill(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_4_zfill(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
__device__ __forceinline__ void cp_async_8(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
__device__ __forceinline__ void cp_async_4(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroupsLeft>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}
__device__ __forceinline__ void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
