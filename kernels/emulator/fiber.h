// Fibers: stacks that take turns on one thread of the CPU. A switch stores the registers that a function must preserve
// on the old stack and loads them from the new one, about 2 ns; the operating system knows nothing of it.

#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

namespace emulator {

constexpr size_t kStackBytes = 256 << 10, kPage = 4096;

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)

using Context = void*;  // of a fiber that waits: its stack pointer. Everything else is on its stack

extern "C" void emulator_switch(Context* from, const Context* to);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov (%rsi), %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

// A stack that looks as if `entry` had been about to be called when it was left. `shift` moves its top: were all stacks
// to start at the same offset in a page, the same few sets of the cache would have to hold the hot ends of all.
inline void prepare(Context* context, char* stack, size_t shift, void (*entry)()) {
  uintptr_t end = reinterpret_cast<uintptr_t>(stack + kStackBytes - shift) - 256;
  void** top = reinterpret_cast<void**>(end & ~uintptr_t(63));
  *--top = nullptr;                          // the return address of `entry`, which does not return
  *--top = reinterpret_cast<void*>(entry);   // where the first switch returns to
  *context = top - 6;                        // six registers, of any value
}

#else

}  // namespace emulator
#include <ucontext.h>
namespace emulator {

using Context = ucontext_t;  // slower: swapcontext asks the operating system for the signal mask

inline void emulator_switch(Context* from, const Context* to) { swapcontext(from, to); }

inline void prepare(Context* context, char* stack, size_t shift, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack + kPage;
  context->uc_stack.ss_size = kStackBytes - kPage - shift;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}

#endif

// Room for `count` stacks; memory is taken when it is touched. Stacks grow downwards, and the lowest page of each must
// not be touched: a stack that overflows ends the process instead of spoiling its neighbour.
inline char* map_stacks(int count) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  char* stacks = static_cast<char*>(memory);
  for (int i = 0; i < count; ++i) mprotect(stacks + i * kStackBytes, kPage, PROT_NONE);
  return stacks;
}

}  // namespace emulator
