// CUDA on the CPU: compiles the text of a kernel with g++ and runs it thread for thread under ASan and UBSan.
//
// kernels_cuda/portable.cuh includes this header where -DGPUQ_HOST is given; no kernel includes it itself.
// Here is the language (qualifiers, built-in variables, barriers, warp functions, atomics); host_vectors.h
// has the vector types, host_math.h the arithmetic intrinsics, host_cuda.cpp the machine that runs the
// threads, worker.cpp the process in which all this happens, runner.py its caller.
//
// How a launch runs. Blocks run one after another, in an order drawn from a seed. Each thread of a block is a
// fiber with a stack of its own. A fiber runs until it waits (barrier, warp function, end of the kernel),
// then one of those that can go on is drawn. So a result that depends on the order of threads between two
// barriers differs from seed to seed, and so does one that depends on uninitialised shared memory, which is
// filled with random bytes for each block.
//
// What is caught, and by what:
//
//   ASan            loads and stores outside the kernel's arrays, up to 1 MiB away, and after the launch;
//                   outside a shared array, static or dynamic; in another block's dynamic shared memory;
//                   of the target of a cp.async before the wait
//   UBSan           misaligned vectors, signed overflow, bad shifts, array bounds, floats cast out of range
//   host_cuda.cpp   barriers that not all threads of the block reach, or reach at another line;
//                   warp functions whose lanes do not all come (exited, other mask, waiting elsewhere), or
//                   that read a lane outside the mask; deadlock;
//                   cp.async misaligned, not into shared memory, twice to one place;
//                   more shared memory than the GPU has
//   runner.py       outputs that differ between two seeds: missing barriers, uninitialised shared memory,
//                   results that depend on the order of blocks; stores to read-only arrays; wrong argument
//                   types; launches that a driver would refuse
//
// What is not:
//
//   * A fiber is never interrupted between two waits. Lost updates (x += 1 by two threads), torn words and
//     everything about weak memory ordering stay unseen; fences do nothing. A race is seen only if the order
//     of whole segments between waits changes the output for the seeds that were run.
//   * An access that lands inside another live array is an access to that array. The guards between arrays
//     are 1 MiB. Before an array that starts inside an 8-byte word, the rest of the word is not guarded.
//   * Uninitialised registers hold a fixed pattern (-ftrivial-auto-var-init): wrong results, but no report.
//     Global memory holds what the caller put there.
//   * Of two 4-byte cp.async in one 8-byte word, the lower may not be poisoned: ASan's shadow is too coarse.
//     It holds random bytes until the wait.
//   * A block that waits for another block, or a thread that spins on memory, runs into the time limit.
//   * expf, tanhf and the like are the host's: their last bits are not the device's.
//   * Kernel parameters are pointers and 4- or 8-byte numbers, not structs.
//   * There is no inline PTX, mma, ldmatrix, TMA, cluster, texture, cooperative group, __activemask or named
//     barrier, no check of __launch_bounds__ or registers, and no notion of time. An instruction that the
//     host shall know gets a wrapper in portable.cuh and a body here.

#pragma once

#ifndef GPUQ_HOST
#error "host_cuda.h is for -DGPUQ_HOST; kernels include portable.cuh"
#endif

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "host_math.h"
#include "host_vectors.h"

// ----------------------------------------------------------------------------------------------- the machine
//
// What host_cuda.cpp offers to the functions below.

namespace gpuq_host {

// Ends the process with a message; the handler of SIGABRT adds kernel, block and thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A place in a kernel's source: as a default argument, that of the call.
struct Place {
  const char* file;
  int line;
};
inline Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

// The built-in variables of the running thread. Kernels see them as constants, but a switch of fibers changes
// them: as `extern const` objects the compiler could keep them in registers across it.
extern uint3 thread_index, block_index;
extern dim3 block_dim, grid_dim;

// Waits for all threads of the block; returns in how many of them `flag` was set. `what` is the CUDA name.
int barrier(const char* what, bool flag, Place place);

// Waits for all lanes of `mask` in the warp; then gathered[lane] is the value that lane brought. Returns the
// lanes that took part: those of the mask that exist (the last warp of a block may be short).
unsigned gather(const char* what, unsigned mask, unsigned long long value, unsigned long long gathered[32],
                Place place);
unsigned lane_index();

// A declaration of static shared memory is reached: the first time in a block, fills it with random bytes.
// `stamp` belongs to the array and remembers the block.
void enter_shared(void* memory, size_t size, unsigned long long* stamp, const char* name);

// The same array, but the compiler no longer knows which: it would leave out ASan's checks at constant
// indices, which are inside the array, but may await a cp.async.
template <class Array>
inline Array& shared_array(Array& storage, unsigned long long* stamp, const char* name) {
  enter_shared(&storage, sizeof(storage), stamp, name);
  Array* array = &storage;
  asm("" : "+r"(array));
  return *array;
}

// The block's dynamic shared memory: on the heap, exactly as large as the launch says.
void* dynamic_shared();

void cp_async(void* shared, const void* global, int size, int bytes);
void cp_async_commit();
void cp_async_wait(int groups_left);
void cp_async_wait_all();

}  // namespace gpuq_host

// ------------------------------------------------------------------------- qualifiers and built-in variables

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
// Plain __shared__ would have no counterpart here.
#define __shared__ gpuq_declare_it_with_SHARED_or_DYNAMIC_SHARED_of_portable_cuh

#define threadIdx (static_cast<const uint3&>(gpuq_host::thread_index))
#define blockIdx (static_cast<const uint3&>(gpuq_host::block_index))
#define blockDim (static_cast<const dim3&>(gpuq_host::block_dim))
#define gridDim (static_cast<const dim3&>(gpuq_host::grid_dim))
constexpr int warpSize = 32;

// A plain static array, not thread_local: only those have ASan's red zones.
#define SHARED(type, name, dims)                       \
  alignas(16) static type gpuq_storage_of_##name dims; \
  static unsigned long long gpuq_stamp_of_##name;      \
  auto& name = gpuq_host::shared_array(gpuq_storage_of_##name, &gpuq_stamp_of_##name, #name)
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(gpuq_host::dynamic_shared())

// -------------------------------------------------------------------------------------------------- barriers

inline void __syncthreads(gpuq_host::Place place = gpuq_host::here()) {
  gpuq_host::barrier("__syncthreads", false, place);
}
inline int __syncthreads_count(int predicate, gpuq_host::Place place = gpuq_host::here()) {
  return gpuq_host::barrier("__syncthreads_count", predicate != 0, place);
}
inline int __syncthreads_or(int predicate, gpuq_host::Place place = gpuq_host::here()) {
  return gpuq_host::barrier("__syncthreads_or", predicate != 0, place) != 0;
}
inline int __syncthreads_and(int predicate, gpuq_host::Place place = gpuq_host::here()) {
  return gpuq_host::barrier("__syncthreads_and", predicate == 0, place) == 0;
}

// Fibers are never interrupted, and every store is seen at once.
inline void __threadfence() {}
inline void __threadfence_block() {}

[[noreturn]] inline void __trap() { gpuq_host::fail("__trap()"); }

// -------------------------------------------------------------------------------------------- warp functions

namespace gpuq_host {

// The value of lane `source`, of which the caller was told by its own rules; its own value if `own` is set.
template <class T>
inline T shuffle(const char* what, unsigned mask, T value, int source, bool own, Place place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4- and 8-byte numbers");
  unsigned long long word = 0, gathered[32];
  memcpy(&word, &value, sizeof(T));
  const unsigned present = gather(what, mask, word, gathered, place);
  if (own) return value;
  if (!(present >> source & 1)) {
    fail("%s(%#010x) reads lane %d, which does not take part: mask and block have lanes %#010x", what, mask,
         source, present);
  }
  memcpy(&value, &gathered[source], sizeof(T));
  return value;
}

inline void check_width(const char* what, int width) {
  if (width < 1 || width > 32 || (width & (width - 1)))
    fail("%s: width %d must be 1, 2, 4, 8, 16 or 32", what, width);
}

}  // namespace gpuq_host

// Groups of `width` lanes exchange values. A source beyond the group's end gives the lane its own value (PTX,
// shfl): __shfl_up_sync before the group's start, __shfl_down_sync and __shfl_xor_sync after its end;
// __shfl_sync takes the source modulo the width.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     gpuq_host::Place place = gpuq_host::here()) {
  gpuq_host::check_width("__shfl_sync", width);
  const int first = static_cast<int>(gpuq_host::lane_index()) & ~(width - 1);
  return gpuq_host::shuffle("__shfl_sync", mask, value, first | (source & (width - 1)), false, place);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                        gpuq_host::Place place = gpuq_host::here()) {
  gpuq_host::check_width("__shfl_up_sync", width);
  const int lane = static_cast<int>(gpuq_host::lane_index());
  const int source = lane - static_cast<int>(delta & 31);
  return gpuq_host::shuffle("__shfl_up_sync", mask, value, source, source < (lane & ~(width - 1)), place);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          gpuq_host::Place place = gpuq_host::here()) {
  gpuq_host::check_width("__shfl_down_sync", width);
  const int lane = static_cast<int>(gpuq_host::lane_index());
  const int source = lane + static_cast<int>(delta & 31);
  return gpuq_host::shuffle("__shfl_down_sync", mask, value, source, source > (lane | (width - 1)), place);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                         gpuq_host::Place place = gpuq_host::here()) {
  gpuq_host::check_width("__shfl_xor_sync", width);
  const int lane = static_cast<int>(gpuq_host::lane_index());
  const int source = lane ^ (lane_mask & 31);
  return gpuq_host::shuffle("__shfl_xor_sync", mask, value, source, source > (lane | (width - 1)), place);
}

inline void __syncwarp(unsigned mask = 0xffffffff, gpuq_host::Place place = gpuq_host::here()) {
  unsigned long long gathered[32];
  gpuq_host::gather("__syncwarp", mask, 0, gathered, place);
}

namespace gpuq_host {

inline unsigned ballot(const char* what, unsigned mask, bool predicate, Place place) {
  unsigned long long gathered[32];
  const unsigned present = gather(what, mask, predicate, gathered, place);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (present >> lane & 1) bits |= static_cast<unsigned>(gathered[lane]) << lane;
  }
  return bits;
}

}  // namespace gpuq_host

inline unsigned __ballot_sync(unsigned mask, int predicate, gpuq_host::Place place = gpuq_host::here()) {
  return gpuq_host::ballot("__ballot_sync", mask, predicate != 0, place);
}
inline int __any_sync(unsigned mask, int predicate, gpuq_host::Place place = gpuq_host::here()) {
  return gpuq_host::ballot("__any_sync", mask, predicate != 0, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, gpuq_host::Place place = gpuq_host::here()) {
  return gpuq_host::ballot("__all_sync", mask, predicate == 0, place) == 0;
}

// sm_80 and newer; a sum wraps modulo 2^32.
#define GPUQ_REDUCE(name, T, combined)                                                                      \
  inline T name(unsigned mask, T value, gpuq_host::Place place = gpuq_host::here()) {                       \
    unsigned long long gathered[32];                                                                        \
    const unsigned present = gpuq_host::gather(#name, mask, static_cast<unsigned>(value), gathered, place); \
    T a = value;                                                                                            \
    for (unsigned lane = 0; lane < 32; ++lane) {                                                            \
      if (lane == gpuq_host::lane_index() || !(present >> lane & 1)) continue;                              \
      const T b = static_cast<T>(gathered[lane]);                                                           \
      a = combined;                                                                                         \
    }                                                                                                       \
    return a;                                                                                               \
  }
#if __CUDA_ARCH__ >= 800
GPUQ_REDUCE(__reduce_add_sync, int, static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)))
GPUQ_REDUCE(__reduce_add_sync, unsigned, a + b)
GPUQ_REDUCE(__reduce_min_sync, int, min(a, b))
GPUQ_REDUCE(__reduce_min_sync, unsigned, min(a, b))
GPUQ_REDUCE(__reduce_max_sync, int, max(a, b))
GPUQ_REDUCE(__reduce_max_sync, unsigned, max(a, b))
GPUQ_REDUCE(__reduce_and_sync, unsigned, a& b)
GPUQ_REDUCE(__reduce_or_sync, unsigned, a | b)
GPUQ_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#endif
#undef GPUQ_REDUCE

// ------------------------------------------------------------------------------------ loads, stores, atomics

template <class T>
inline T __ldg(const T* address) {
  return *address;
}
template <class T>
inline T __ldcg(const T* address) {
  return *address;
}
template <class T>
inline T __ldcs(const T* address) {
  return *address;
}
template <class T>
inline void __stcg(T* address, T value) {
  *address = value;
}
template <class T>
inline void __stcs(T* address, T value) {
  *address = value;
}

// No fiber is interrupted here: a plain read and write is atomic. All return the old value; integers wrap.
#define GPUQ_ATOMIC(name, T, updated)  \
  inline T name(T* address, T value) { \
    const T old = *address;            \
    *address = updated;                \
    return old;                        \
  }
#define GPUQ_ATOMICS(T, Unsigned)                                                                      \
  GPUQ_ATOMIC(atomicAdd, T, static_cast<T>(static_cast<Unsigned>(old) + static_cast<Unsigned>(value))) \
  GPUQ_ATOMIC(atomicSub, T, static_cast<T>(static_cast<Unsigned>(old) - static_cast<Unsigned>(value))) \
  GPUQ_ATOMIC(atomicMin, T, value < old ? value : old)                                                 \
  GPUQ_ATOMIC(atomicMax, T, value > old ? value : old)                                                 \
  GPUQ_ATOMIC(atomicAnd, T, old& value)                                                                \
  GPUQ_ATOMIC(atomicOr, T, old | value)                                                                \
  GPUQ_ATOMIC(atomicXor, T, old ^ value)                                                               \
  GPUQ_ATOMIC(atomicExch, T, value)                                                                    \
  inline T atomicCAS(T* address, T expected, T value) {                                                \
    const T old = *address;                                                                            \
    if (old == expected) *address = value;                                                             \
    return old;                                                                                        \
  }
GPUQ_ATOMICS(int, unsigned)
GPUQ_ATOMICS(unsigned, unsigned)
GPUQ_ATOMICS(unsigned long long, unsigned long long)
// The host's uint64_t, which is the device's unsigned long long.
GPUQ_ATOMICS(unsigned long, unsigned long)
GPUQ_ATOMIC(atomicAdd, float, old + value)
GPUQ_ATOMIC(atomicAdd, double, old + value)
#undef GPUQ_ATOMICS
#undef GPUQ_ATOMIC

// ---------------------------------------------------------------------------------------------- entry points
//
// runner.py ends each translation unit with a table of its kernels, from which the worker calls them. The
// types of the parameters are taken from the kernel's declaration, so that a launch with other types is
// refused; the device would read garbage.

namespace gpuq_host {

// One kernel argument: the bits of a pointer or number, lowest first.
union Argument {
  unsigned long long bits;
  char bytes[8];
};

struct Entry {
  const char* name;
  const char* signature;  // a letter per parameter; null: no such kernel under these macros
  void (*function)();
  void (*call)(void (*function)(), const Argument* arguments);
};

template <class T>
constexpr char letter() {
  static_assert(std::is_pointer_v<T> || (std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)),
                "kernel parameters are pointers and numbers of 4 or 8 bytes");
  if (std::is_pointer_v<T>) return 'p';
  if (std::is_floating_point_v<T>) return sizeof(T) == 4 ? 'f' : 'd';
  return sizeof(T) == 4 ? (std::is_signed_v<T> ? 'i' : 'u') : (std::is_signed_v<T> ? 'l' : 'm');
}

template <class... T>
inline constexpr char kSignature[] = {letter<T>()..., '\0'};

template <class T>
inline T unpack(const Argument& argument) {
  T value;
  memcpy(&value, argument.bytes, sizeof(T));
  return value;
}

template <class... T, size_t... I>
inline void call_with(void (*function)(T...), [[maybe_unused]] const Argument* arguments,
                      std::index_sequence<I...>) {
  function(unpack<T>(arguments[I])...);
}

template <class... T>
void call(void (*function)(), const Argument* arguments) {
  call_with(reinterpret_cast<void (*)(T...)>(function), arguments, std::index_sequence_for<T...>());
}

template <class... T>
Entry entry(const char* name, void (*kernel)(T...)) {
  return {name, kSignature<T...>, reinterpret_cast<void (*)()>(kernel), &call<T...>};
}

// What a name of the table stands for where the preprocessor has removed the kernel.
struct Absent {};
inline Entry entry(const char* name, Absent) { return {name, nullptr, nullptr, nullptr}; }

}  // namespace gpuq_host
