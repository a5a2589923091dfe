// The machine that runs the threads of a launch: fibers, barriers, warps, shared memory, cp.async. See
// host_cuda.h for what it promises. Nothing here makes a system call while threads run, except for the first
// use of a stack.

#include "host_cuda.h"

#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "machine.h"

// -------------------------------------------------------------------------------------------- context switch
//
// gpuq_switch(&save, resume) stores the stack pointer of the running context in `save` and goes on where
// `resume` was stored: it pushes the registers that a callee must preserve, exchanges the stack pointer,
// pops. All others are dead at a call.

extern "C" void gpuq_switch(void** save, void* resume);
extern "C" void gpuq_fiber_start();

#if defined(__x86_64__)
asm(R"(
    .text
    .globl gpuq_switch
    .type gpuq_switch, @function
gpuq_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size gpuq_switch, .-gpuq_switch
)");

// What gpuq_switch finds on a stack on which nothing has run: zeros for six registers, where to return to,
// and a null return address above it (the frame pointer 0 ends stack traces).
static void* first_frame(char* top) {
  void** frame = reinterpret_cast<void**>(top) - 8;
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(&gpuq_fiber_start);
  return frame;
}
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl gpuq_switch
    .type gpuq_switch, %function
gpuq_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
    .size gpuq_switch, .-gpuq_switch
)");

static void* first_frame(char* top) {
  void** frame = reinterpret_cast<void**>(top) - 20;
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[1] = reinterpret_cast<void*>(&gpuq_fiber_start);  // x30, where `ret` goes
  return frame;
}
#else
#error "the context switch is written for x86-64 and aarch64"
#endif

namespace gpuq_host {

uint3 thread_index, block_index;
dim3 block_dim, grid_dim;

namespace {

// ----------------------------------------------------------------------------------------------------- state

// Enough for any kernel's registers and arrays under ASan, and for ASan's own reports.
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kStaticSharedBytes = 48 << 10;

// A cp.async under way: `bytes` bytes to copy, zeros up to `size`.
struct Copy {
  char* to;
  const char* from;
  int size, bytes;
  int group;
};

enum class State { kReady, kAtBarrier, kInWarp, kExited };

struct Context {
  void* stack_pointer;
  char* stack;  // its lowest address; null for a thread that has not started
  size_t stack_bytes;
};

struct Fiber : Context {
  uint3 index;
  unsigned number;  // x fastest; 32 successive numbers are a warp
  State state;
  // Where it waits; in a warp function: with which lanes, with what value, and where it wants the others'.
  const char* what;
  Place place;
  unsigned mask;
  unsigned long long value;
  unsigned long long* gathered;
  std::vector<Copy> copies;
  int groups;  // committed so far
};

Context main_context;
std::vector<Fiber> fibers;    // of the running block
std::vector<Fiber*> ready;    // those that can go on
Fiber* current;               // null outside of kernels
unsigned threads;             // of a block
unsigned exited;              // threads of the block that have ended
unsigned at_barrier;          // threads of the block at a barrier,
Fiber* first_at_barrier;      // one of them,
int flags, flags_of_last;     // in how many of them the flag is set, and in how many it was at the last one
unsigned long long blocks;    // begun in this process: the stamp of shared arrays
unsigned long long switches;  // of fibers, in this launch

std::vector<char*> free_stacks;
char* retired_stack;  // of the fiber that ended last; still in use until it has been switched away from

struct SharedArray {
  char* memory;
  size_t size;
};
std::vector<SharedArray> shared_arrays;  // of the running block: the dynamic one, then the static ones
size_t static_shared;                    // bytes of the latter

const Launch* launch;

// splitmix64: one multiply-and-shift chain per number, and any seed is a good one.
unsigned long long random_state;
unsigned long long random_word() {
  unsigned long long z = random_state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}
// A number below n, n > 0. Its bias of n / 2^32 does not matter here.
unsigned random_below(unsigned n) { return (random_word() >> 32) * n >> 32; }

void random_fill(char* memory, size_t size) {
  for (; size >= 8; memory += 8, size -= 8) {
    const unsigned long long word = random_word();
    memcpy(memory, &word, 8);
  }
  const unsigned long long word = random_word();
  memcpy(memory, &word, size);
}

// ------------------------------------------------------------------------------------------------ scheduling

// Tells ASan which stack we are about to run on, goes there, and tells it that we are back. `from` never runs
// again if it ends.
void switch_context(Context& from, Context& to, bool ends) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake_stack, to.stack, to.stack_bytes);
  gpuq_switch(&from.stack_pointer, to.stack_pointer);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

// A stack with an inaccessible page below it, so that overflow is a fault and not another fiber's data.
char* new_stack() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) fail("no memory for a fiber's stack");
  return static_cast<char*>(memory) + page;
}

// Stacks are taken late and given back early: threads that never wait all run on two, which stay in cache.
void start(Fiber& fiber) {
  if (free_stacks.empty()) free_stacks.push_back(new_stack());
  fiber.stack = free_stacks.back();
  free_stacks.pop_back();
  fiber.stack_bytes = kStackBytes;
  // The frames in which the stack's last thread ended never returned: their red zones are still there.
  __asan_unpoison_memory_region(fiber.stack + kStackBytes - 4096, 4096);
  fiber.stack_pointer = first_frame(fiber.stack + kStackBytes);
}

const char* describe(const Fiber& fiber) {
  static char text[2][256];
  static int turn;
  char* out = text[turn ^= 1];
  const int n =
      snprintf(out, sizeof(text[0]), "thread (%u, %u, %u) ", fiber.index.x, fiber.index.y, fiber.index.z);
  const size_t left = sizeof(text[0]) - static_cast<size_t>(n);
  if (fiber.state == State::kExited) {
    snprintf(out + n, left, "has exited");
  } else if (fiber.state == State::kInWarp) {
    snprintf(out + n, left, "waits in %s(%#010x) at %s:%d", fiber.what, fiber.mask, fiber.place.file,
             fiber.place.line);
  } else {
    snprintf(out + n, left, "waits in %s at %s:%d", fiber.what, fiber.place.file, fiber.place.line);
  }
  return out;
}

// No thread can go on. Names two that wait for different things.
[[noreturn]] void fail_deadlock() {
  const Fiber* first = nullptr;
  const Fiber* other = nullptr;
  for (const Fiber& fiber : fibers) {
    if (fiber.state == State::kExited) continue;
    if (!first) first = &fiber;
    if (strcmp(fiber.what, first->what) != 0 || fiber.mask != first->mask) other = &fiber;
  }
  current = nullptr;  // it is nobody's in particular
  if (!other) fail("deadlock: %s, and no other thread can go on", describe(*first));
  fail("deadlock: %s, while %s", describe(*first), describe(*other));
}

// Goes on with one of the threads that can, drawn at random; after the last one with the main context.
void run_next(bool ends = false) {
  Fiber* const self = current;
  Context* to = &main_context;
  if (!ready.empty()) {
    Fiber*& slot = ready[random_below(static_cast<unsigned>(ready.size()))];
    current = slot;
    slot = ready.back();
    ready.pop_back();
    if (current == self) return;
    if (!current->stack) start(*current);
    thread_index = current->index;
    to = current;
  } else if (exited < threads) {
    fail_deadlock();
  } else {
    current = nullptr;
  }
  ++switches;
  switch_context(self ? static_cast<Context&>(*self) : main_context, *to, ends);
}

void exit_thread() {
  Fiber& self = *current;
  self.state = State::kExited;
  ++exited;
  if (at_barrier) fail("barrier divergence: this thread exits, while %s", describe(*first_at_barrier));
  const unsigned lane = self.number % 32, warp = self.number - lane;
  for (unsigned n = warp; n < warp + 32 && n < threads; ++n) {
    const Fiber& fiber = fibers[n];
    if (fiber.state == State::kInWarp && fiber.mask >> lane & 1) {
      fail("lane %u exits, while %s for it", lane, describe(fiber));
    }
  }
  if (retired_stack) free_stacks.push_back(retired_stack);
  retired_stack = self.stack;
  run_next(true);
}

// ---------------------------------------------------------------------------------------------------- blocks

void finish_copy(const Copy& copy) {
  __asan_unpoison_memory_region(copy.to, static_cast<size_t>(copy.size));
  memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  memset(copy.to + copy.bytes, 0, static_cast<size_t>(copy.size - copy.bytes));
}

void run_block() {
  ++blocks;
  exited = at_barrier = 0;
  flags = 0;
  static_shared = 0;
  shared_arrays.clear();

  char* dynamic = static_cast<char*>(malloc(launch->dynamic_shared_bytes));
  // malloc(0) gives a byte; the kernel has none.
  if (launch->dynamic_shared_bytes == 0) __asan_poison_memory_region(dynamic, 1);
  random_fill(dynamic, launch->dynamic_shared_bytes);
  shared_arrays.push_back({dynamic, launch->dynamic_shared_bytes});

  ready.clear();
  for (Fiber& fiber : fibers) {
    fiber.stack = nullptr;
    fiber.state = State::kReady;
    fiber.groups = 0;
    ready.push_back(&fiber);
  }
  run_next();

  // Copies nobody waited for: the memory goes to the next block, or back to the heap.
  for (Fiber& fiber : fibers) {
    for (const Copy& copy : fiber.copies) {
      __asan_unpoison_memory_region(copy.to, static_cast<size_t>(copy.size));
    }
    fiber.copies.clear();
  }
  free(dynamic);
}

// Every sanitizer's report and every fail() ends in SIGABRT: here the process says which thread it was.
void on_abort(int) {
  if (!launch) return;
  dprintf(STDERR_FILENO, "gpuq-host: in kernel %s, block (%u, %u, %u)", launch->name, block_index.x,
          block_index.y, block_index.z);
  if (current) {
    const uint3& index = current->index;
    dprintf(STDERR_FILENO, ", thread (%u, %u, %u)", index.x, index.y, index.z);
  }
  dprintf(STDERR_FILENO, "\n");
  if (!__asan_report_present()) return;
  const char* address = static_cast<const char*>(__asan_get_report_address());
  launch->explain(address);
  for (const Fiber& fiber : fibers) {
    for (const Copy& copy : fiber.copies) {
      if (address < copy.to || address >= copy.to + copy.size) continue;
      dprintf(STDERR_FILENO, "gpuq-host: the address awaits a cp.async of thread (%u, %u, %u)\n",
              fiber.index.x, fiber.index.y, fiber.index.z);
    }
  }
}

}  // namespace

// ------------------------------------------------------------------------------------ what a kernel may call

void fail(const char* format, ...) {
  fputs("gpuq-host: error: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputs("\n", stderr);
  if (current) __sanitizer_print_stack_trace();
  abort();
}

int barrier(const char* what, bool flag, Place place) {
  Fiber& self = *current;
  // All threads must come to the same barrier. Those already there agree, so one of them speaks for all.
  const Fiber* elsewhere = nullptr;
  if (at_barrier &&
      (strcmp(first_at_barrier->what, what) != 0 || first_at_barrier->place.line != place.line ||
       strcmp(first_at_barrier->place.file, place.file) != 0)) {
    elsewhere = first_at_barrier;
  }
  for (size_t n = 0; exited && !elsewhere; ++n) {
    if (fibers[n].state == State::kExited) elsewhere = &fibers[n];
  }
  if (elsewhere) {
    fail("barrier divergence: %s at %s:%d, while %s", what, place.file, place.line, describe(*elsewhere));
  }
  self.what = what;
  self.place = place;
  self.mask = 0;
  self.state = State::kAtBarrier;
  if (at_barrier == 0) first_at_barrier = &self;
  flags += flag;
  if (++at_barrier == threads) {
    flags_of_last = flags;
    flags = 0;
    at_barrier = 0;
    for (Fiber& fiber : fibers) {
      fiber.state = State::kReady;
      ready.push_back(&fiber);
    }
  }
  run_next();
  // Nobody completes the next barrier before this thread has come to it, too.
  return flags_of_last;
}

unsigned lane_index() { return current->number % 32; }

unsigned gather(const char* what, unsigned mask, unsigned long long value, unsigned long long gathered[32],
                Place place) {
  Fiber& self = *current;
  const unsigned lane = self.number % 32, warp = self.number - lane;
  const unsigned lanes = threads - warp < 32 ? threads - warp : 32;
  const unsigned present = lanes == 32 ? mask : mask & ((1u << lanes) - 1);
  if (!(mask >> lane & 1)) {
    fail("%s(%#010x) is called by lane %u, which the mask does not name", what, mask, lane);
  }
  self.what = what;
  self.place = place;
  self.mask = mask;
  self.value = value;
  self.gathered = gathered;
  self.state = State::kInWarp;
  bool complete = true;
  for (unsigned n = 0; n < lanes; ++n) {
    if (!(present >> n & 1)) continue;
    const Fiber& fiber = fibers[warp + n];
    if (fiber.state == State::kExited) {
      fail("%s(%#010x) waits for lane %u, but %s", what, mask, n, describe(fiber));
    }
    complete &= fiber.state == State::kInWarp && fiber.mask == mask && strcmp(fiber.what, what) == 0;
  }
  if (complete) {
    unsigned long long values[32] = {};
    for (unsigned n = 0; n < lanes; ++n) {
      if (present >> n & 1) values[n] = fibers[warp + n].value;
    }
    // Each lane has its own copy: another exchange may begin before a slow lane has read this one's.
    for (unsigned n = 0; n < lanes; ++n) {
      if (!(present >> n & 1)) continue;
      Fiber& fiber = fibers[warp + n];
      memcpy(fiber.gathered, values, sizeof(values));
      fiber.state = State::kReady;
      ready.push_back(&fiber);
    }
  }
  run_next();
  return present;
}

void enter_shared(void* memory, size_t size, unsigned long long* stamp, const char* name) {
  if (*stamp == blocks) return;
  *stamp = blocks;
  static_shared += size;
  if (static_shared > kStaticSharedBytes) {
    fail("%s brings static shared memory to %zu bytes; a block may have %zu", name, static_shared,
         kStaticSharedBytes);
  }
  if (static_shared + launch->dynamic_shared_bytes > launch->shared_limit) {
    fail("%s brings shared memory to %zu bytes, dynamic and static; this GPU has %zu a block", name,
         static_shared + launch->dynamic_shared_bytes, launch->shared_limit);
  }
  shared_arrays.push_back({static_cast<char*>(memory), size});
  random_fill(static_cast<char*>(memory), size);
}

void* dynamic_shared() { return shared_arrays[0].memory; }

// -------------------------------------------------------------------------------------------------- cp.async
//
// The copy itself is made as late as the device may make it, at the wait. Until then its target is poisoned,
// and holds random bytes where ASan's shadow is too coarse for that.

void cp_async(void* shared, const void* global, int size, int bytes) {
  char* to = static_cast<char*>(shared);
  const char* from = static_cast<const char*>(global);
  if (bytes < 0 || bytes > size) fail("cp_async_%d: %d bytes to copy, must be 0 to %d", size, bytes, size);
  const auto is_misaligned = [&](const char* p) {
    return (reinterpret_cast<uintptr_t>(p) & (static_cast<uintptr_t>(size) - 1)) != 0;
  };
  if (is_misaligned(to)) fail("cp_async_%d: misaligned shared address %p", size, shared);
  if (is_misaligned(from)) fail("cp_async_%d: misaligned global address %p", size, global);

  const SharedArray* inside = nullptr;
  for (const SharedArray& array : shared_arrays) {
    if (to >= array.memory && to + size <= array.memory + array.size) inside = &array;
    if (bytes && from >= array.memory && from < array.memory + array.size) {
      fail("cp_async_%d: the source is in shared memory", size);
    }
  }
  if (!inside) fail("cp_async_%d: the target is not inside one of the block's shared arrays", size);
  if (__asan_region_is_poisoned(to, static_cast<size_t>(size))) {
    fail("cp_async_%d: an earlier copy to the same place has not been waited for", size);
  }
  // Now, where the stack still shows the guilty line, not at the wait.
  for (int i = 0; i < bytes; ++i) static_cast<void>(*static_cast<const volatile char*>(from + i));

  random_fill(to, static_cast<size_t>(size));
  __asan_poison_memory_region(to, static_cast<size_t>(size));
  current->copies.push_back({to, from, size, bytes, current->groups});
}

void cp_async_commit() { ++current->groups; }

void cp_async_wait(int groups_left) {
  std::vector<Copy>& copies = current->copies;
  size_t kept = 0;
  for (const Copy& copy : copies) {
    if (copy.group < current->groups - groups_left) {
      finish_copy(copy);
    } else {
      copies[kept++] = copy;
    }
  }
  copies.resize(kept);
}

void cp_async_wait_all() {
  cp_async_commit();
  cp_async_wait(0);
}

// ------------------------------------------------------------------------------------- what the worker calls

void start_machine() {
  pthread_attr_t attributes;
  void* bottom;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0 ||
      pthread_attr_getstack(&attributes, &bottom, &main_context.stack_bytes) != 0) {
    fail("the bounds of the stack are unknown");
  }
  pthread_attr_destroy(&attributes);
  main_context.stack = static_cast<char*>(bottom);
  signal(SIGABRT, on_abort);
}

unsigned long long run(const Launch& what) {
  launch = &what;
  block_dim = what.block;
  grid_dim = what.grid;
  threads = what.block.x * what.block.y * what.block.z;
  random_state = what.seed;
  switches = 0;
  fibers.resize(threads);
  for (unsigned n = 0; n < threads; ++n) {
    fibers[n].number = n;
    fibers[n].index = {n % what.block.x, n / what.block.x % what.block.y, n / what.block.x / what.block.y};
  }
  ready.reserve(threads);

  // Fisher-Yates, as the blocks are drawn.
  std::vector<unsigned> order(what.grid.x * what.grid.y * what.grid.z);
  for (unsigned n = 0; n < order.size(); ++n) order[n] = n;
  for (unsigned left = static_cast<unsigned>(order.size()); left > 0; --left) {
    unsigned& drawn = order[random_below(left)];
    const unsigned n = drawn;
    drawn = order[left - 1];
    block_index = {n % what.grid.x, n / what.grid.x % what.grid.y, n / what.grid.x / what.grid.y};
    run_block();
  }
  launch = nullptr;
  return switches;
}

}  // namespace gpuq_host

// Where a new fiber begins; it has no caller to return to.
extern "C" void gpuq_fiber_start() {
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  gpuq_host::launch->entry->call(gpuq_host::launch->entry->function, gpuq_host::launch->arguments);
  gpuq_host::exit_thread();
  __builtin_trap();
}
