// What the scheduler tells the checker, and what it asks.

#pragma once
#include "runtime.h"

namespace emulator {

// A block begins; all threads have met at a barrier; these lanes of a warp have met at __syncwarp; the launch ends.
void checker_block(uint64_t block);
void checker_barrier();
void checker_warp(int warp, unsigned lanes);

// Stops the launch: prints the message for the host and never returns to the kernel. In runtime.cpp.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The number of the block that runs as the `turn`-th of the launch, counted from 0.
uint64_t block_of_turn(uint64_t turn);

bool on_a_stack(uintptr_t address);

}  // namespace emulator
