// What the machine of host_cuda.cpp offers to the worker.

#pragma once

#include "host_cuda.h"

namespace gpuq_host {

struct Launch {
  const char* name;  // the kernel's, for reports
  const Entry* entry;
  const Argument* arguments;
  dim3 grid, block;
  size_t dynamic_shared_bytes;
  size_t shared_limit;  // of a block, static and dynamic
  unsigned long long seed;
  // Writes to standard error what a bad address has to do with the launch's arrays.
  void (*explain)(const char* address);
};

// Once, before the first launch.
void start_machine();

// Runs all blocks of a launch; returns how many times it switched between fibers. An error ends the process.
unsigned long long run(const Launch& launch);

}  // namespace gpuq_host
