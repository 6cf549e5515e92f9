// What a compiled kernel and the runtime know of each other. cuda.h wraps these names in CUDA's.

#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The kernel's library hides its own names, so that two kernels may use the same ones, but must see the runtime's.
#pragma GCC visibility push(default)

namespace emulator {

constexpr int kMaxThreads = 1024;      // in a block
constexpr int kLanes = 32;             // in a warp
constexpr int kMaxShared = 227 << 10;  // bytes of dynamic shared memory: what a block can ask for on sm_90

// A line of the kernel's text. As a default argument, `Site site = Site::here()` is the line of the caller.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// Who is running: rewritten each time that another thread goes on.
struct State {
  uint3 thread, block;
  dim3 block_size, grid_size;
  int linear_thread;  // x runs fastest, then y, then z; 32 neighbours are a warp
};
extern State state;

enum class Vote { none, count, all, any };

// Waits for all threads of the block. Returns what the vote asks for: how many predicates hold, whether all or any do.
int barrier(Vote vote, int predicate, Site site);

// Operations that the lanes of a warp do together, each bringing some words and taking some.
enum class Collective { sync, shuffle, ballot, mma_tf32, mma_bf16, ldmatrix, ldmatrix_transposed };
constexpr int kWordsIn = 10, kWordsOut = 4;
void collective(Collective operation, unsigned mask, const uint32_t* in, int words_in, uint32_t* out, int words_out,
                Site site);

// cp.async. `code` is the address of the instruction, for the checker's messages.
void copy_async(void* to, const void* from, int bytes, int valid_bytes, const void* code, Site site);
void commit_async();
void wait_async(int groups_that_may_be_missing);

[[noreturn]] void misaligned(const void* address, int bytes, const char* what, Site site);

// The checker's hooks. Plain reads and writes come through the callbacks of -fsanitize=thread instead.
// An exchange is an atomic operation whose result does not depend on what was there.
enum class Kind : uint8_t { read, write, atomic, exchange, async_write, async_arrival };
void check_access(const void* address, int bytes, Kind kind, const void* code);

}  // namespace emulator

#pragma GCC visibility pop
