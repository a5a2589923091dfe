// The process in which kernels run: reads launches from standard input, runs them, writes the arrays that
// changed to standard output. It dies with a report on standard error at the first error of a kernel;
// runner.py then starts another. The format, in the order of the reads and writes below, is known to
// runner.py alone.

#include <dlfcn.h>
#include <errno.h>
#include <sanitizer/asan_interface.h>
#include <time.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "machine.h"

// Reports end in SIGABRT, whose handler adds the thread. Kernels are loaded as shared objects, of which
// several may define the same names; leaks are of no interest; a second, fake stack for each fiber would cost
// more than it finds. Freed arrays stay poisoned until 64 MiB of them have gathered.
extern "C" const char* __asan_default_options() {
  return "abort_on_error=1:detect_leaks=0:detect_odr_violation=0:detect_stack_use_after_return=0:"
         "quarantine_size_mb=64:allocator_may_return_null=1";
}
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using gpuq_host::Argument;
using gpuq_host::Entry;

// The caller's end of the pipes; standard output itself is free for printf in kernels.
int requests, replies;

// Reads `size` bytes; ends the process when the caller has gone.
void read_all(void* to, size_t size) {
  for (char* p = static_cast<char*>(to); size > 0;) {
    const ssize_t n = read(requests, p, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(0);
    p += n;
    size -= static_cast<size_t>(n);
  }
}

template <class T>
T read_number() {
  T number;
  read_all(&number, sizeof(number));
  return number;
}

std::string read_text() {
  std::string text(read_number<uint32_t>(), '\0');
  read_all(text.data(), text.size());
  return text;
}

void write_all(const void* from, size_t size) {
  for (const char* p = static_cast<const char*>(from); size > 0;) {
    const ssize_t n = write(replies, p, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(0);
    p += n;
    size -= static_cast<size_t>(n);
  }
}

template <class T>
void write_number(T number) {
  write_all(&number, sizeof(number));
}

// --------------------------------------------------------------------------------------------- device memory

// An array of the launch: exactly its bytes can be touched. Poisoned guards on both sides, much wider than
// the heap's own, catch a miss by whole image rows or weight tiles. `misalignment`, below 256, is the array's
// own place within its allocation: on the device that starts at a multiple of 256.
class Array {
 public:
  Array(size_t size, size_t misalignment) : size_(size) {
    void* block;
    if (posix_memalign(&block, 256, misalignment + size + 2 * kGuard) != 0)
      gpuq_host::fail("no memory for an array");
    block_ = static_cast<char*>(block);
    memory_ = block_ + kGuard + misalignment;
    __asan_poison_memory_region(block_, kGuard + misalignment);
    __asan_poison_memory_region(memory_ + size, kGuard);
    read_all(memory_, size);
    before_.assign(memory_, memory_ + size);
  }
  ~Array() { free(block_); }
  Array(const Array&) = delete;

  char* memory() const { return memory_; }
  size_t size() const { return size_; }
  bool changed() const { return size_ && memcmp(memory_, before_.data(), size_) != 0; }
  bool is_near(const char* address) const {
    return address >= memory_ - kGuard && address < memory_ + size_ + kGuard;
  }

 private:
  static constexpr size_t kGuard = 1 << 20;
  size_t size_;
  char* block_;
  char* memory_;
  std::vector<char> before_;
};

std::vector<std::unique_ptr<Array>> arrays;
std::vector<int> argument_of_array;  // the first argument that points into it, for reports

void explain(const char* address) {
  for (size_t i = 0; i < arrays.size(); ++i) {
    const Array& array = *arrays[i];
    if (!array.is_near(address)) continue;
    const long long offset = address - array.memory(), size = static_cast<long long>(array.size());
    dprintf(STDERR_FILENO, "gpuq-host: the address is %lld bytes %s the %lld bytes of argument %d\n",
            offset < 0      ? -offset
            : offset < size ? offset
                            : offset - size,
            offset < 0      ? "before"
            : offset < size ? "into"
                            : "after",
            size, argument_of_array[i]);
  }
}

// -------------------------------------------------------------------------------------------------- launches

// The table of kernels of an object file, loaded once: `__device__` variables live as long as the process.
const Entry* load(const std::string& path, std::string& problem) {
  static std::unordered_map<std::string, const Entry*> loaded;
  const auto found = loaded.find(path);
  if (found != loaded.end()) return found->second;
  void* object = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  using Table = const Entry* (*)();
  const Table table = object ? reinterpret_cast<Table>(dlsym(object, "gpuq_host_entries")) : nullptr;
  if (!table) {
    problem = dlerror();
    return nullptr;
  }
  return loaded[path] = table();
}

const Entry* find(const Entry* table, const std::string& name, const std::string& signature,
                  std::string& problem) {
  for (const Entry* entry = table; entry->name; ++entry) {
    if (name != entry->name) continue;
    if (!entry->signature) break;
    // Signed and unsigned integers of one size travel alike.
    std::string wanted = entry->signature, given = signature;
    for (std::string* text : {&wanted, &given}) {
      for (char& letter : *text) letter = letter == 'u' ? 'i' : letter == 'm' ? 'l' : letter;
    }
    if (wanted == given) return entry;
    problem = name + " takes (" + entry->signature + "), the launch has (" + signature +
              "): p pointer, i int32, u uint32, l int64, m uint64, f float32, d float64";
    return nullptr;
  }
  problem = "there is no kernel " + name + " under these macros";
  return nullptr;
}

double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void serve_one() {
  const std::string path = read_text(), entry_name = read_text(), kernel_name = read_text(),
                    signature = read_text();
  gpuq_host::Launch launch{};
  for (dim3* dims : {&launch.grid, &launch.block}) {
    for (unsigned* n : {&dims->x, &dims->y, &dims->z}) *n = read_number<uint32_t>();
  }
  launch.dynamic_shared_bytes = read_number<uint64_t>();
  launch.shared_limit = read_number<uint64_t>();
  launch.seed = read_number<uint64_t>();

  const size_t array_count = read_number<uint32_t>();
  for (size_t i = 0; i < array_count; ++i) {
    argument_of_array.push_back(static_cast<int>(read_number<uint32_t>()));
    const size_t size = read_number<uint64_t>(), misalignment = read_number<uint64_t>();
    arrays.push_back(std::make_unique<Array>(size, misalignment));
  }
  std::vector<Argument> arguments(signature.size());
  for (Argument& argument : arguments) {
    // A number's bits, or an offset into an array.
    const int32_t array = read_number<int32_t>();
    argument.bits = read_number<uint64_t>();
    if (array >= 0)
      argument.bits += reinterpret_cast<uintptr_t>(arrays[static_cast<size_t>(array)]->memory());
  }

  std::string problem;
  const Entry* table = load(path, problem);
  launch.entry = table ? find(table, entry_name, signature, problem) : nullptr;
  if (launch.entry) {
    launch.name = kernel_name.c_str();
    launch.arguments = arguments.data();
    launch.explain = explain;
    const double start = seconds();
    const uint64_t switches = gpuq_host::run(launch);
    const double elapsed = seconds() - start;
    write_number<uint32_t>(0);
    write_number(switches);
    write_number(elapsed);
    for (const auto& array : arrays) {
      write_number<uint8_t>(array->changed());
      if (array->changed()) write_all(array->memory(), array->size());
    }
  } else {
    write_number(static_cast<uint32_t>(problem.size()));
    write_all(problem.data(), problem.size());
  }
  arrays.clear();
  argument_of_array.clear();
}

}  // namespace

int main() {
  requests = dup(STDIN_FILENO);
  replies = dup(STDOUT_FILENO);
  // A kernel's printf goes where its reports go.
  dup2(STDERR_FILENO, STDOUT_FILENO);
  setvbuf(stdout, nullptr, _IONBF, 0);
  gpuq_host::start_machine();
  for (;;) serve_one();
}
