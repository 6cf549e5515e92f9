// The scheduler: runs the blocks of a grid one after another, and the threads of a block as fibers.
//
// A thread runs until it has to wait: at __syncthreads for its block, at a warp's operation for the other lanes. Then
// the next thread of the queue goes on. So there is one running thread at any time, its turns are long, and their
// order is ours to choose: forward, reverse or random. A kernel that is right gives the same result in all of
// them; one that lacks a barrier reads what has not been written yet in at least one.
//
// Whoever waits for somebody that cannot come is found when the queue runs empty.

#include "runtime.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "checker.h"
#include "fiber.h"

extern "C" {
alignas(1024) char emulator_dynamic_shared[emulator::kMaxShared];

// What module.py fills in. Addresses of values: as in cuLaunchKernel.
struct EmulatorLaunch {
  void (*kernel)(void** values);
  void** values;
  unsigned grid[3], block[3];
  unsigned dynamic_shared;
  char *shared_first, *shared_end;
  int order;  // 0 forward, 1 reverse, 2 random
  uint64_t seed;
  int checked, interruptible;
};
}

namespace emulator {

State state;

namespace {

enum class Status : uint8_t { fresh, ready, at_barrier, at_collective, done };

// cp.async: the bytes wait here until they may be seen.
struct Copy {
  void* to;
  int bytes;
  const void* code;
  char data[16];
};

struct Thread {
  uint3 index;
  Context context;
  char* stack;
  Status status;
  Site site;  // where it waits
  int predicate;
  Vote vote;
  std::vector<std::vector<Copy>> copies;  // by group; the last one is not committed yet
};

struct Warp {
  unsigned arrived;  // lanes that wait at a collective
  unsigned mask[kLanes];
  Collective operation[kLanes];
  Site site[kLanes];
  uint32_t in[kLanes][kWordsIn], out[kLanes][kWordsOut];
};

Thread threads[kMaxThreads];
Warp warps[kMaxThreads / kLanes];
EmulatorLaunch launch;
uint64_t block_count;
std::vector<uint32_t> shuffled;  // all blocks, in random order
int thread_count, current;
int alive, waiting_at_barrier, vote_result;

Context host;  // where the launch was called from
char* stacks;
char* free_stacks[kMaxThreads];
int free_stack_count;

char message[1024];

// ---- Ctrl-C ----------------------------------------------------------------------------------------------------

constexpr char kInterrupted[] = "interrupted";  // module.py makes a KeyboardInterrupt of it
volatile sig_atomic_t interruptible, interrupted;
struct sigaction handler_of_python;

// The launch stops at its next barrier or block. Where none comes, the second Ctrl-C ends the process.
void interrupt(int number) {
  if (interruptible && interrupted) signal(SIGINT, SIG_DFL), raise(SIGINT);
  interrupted = interruptible;
  handler_of_python.sa_handler(number);
}

// ---- Whose turn it is ------------------------------------------------------------------------------------------

int queue[kMaxThreads];  // a ring; threads that are ready to go on
unsigned queue_first, queue_length;
uint64_t random_state;

uint32_t random_below(uint32_t n) {  // Marsaglia's xorshift64
  random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
  return uint32_t((random_state >> 32) * n >> 32);
}

void enqueue(int thread) { queue[(queue_first + queue_length++) % kMaxThreads] = thread; }

// Threads `first`, `first` + 1, ... of which `selected` tells: in the order of this launch.
template <class Selected>
void enqueue_all(int first, int count, Selected selected) {
  for (int k = 0; k < count; ++k) {
    int i = launch.order == 1 ? count - 1 - k : k;
    if (selected(i)) enqueue(first + i);
  }
}

int dequeue() {
  if (launch.order == 2)
    std::swap(queue[queue_first], queue[(queue_first + random_below(queue_length)) % kMaxThreads]);
  int thread = queue[queue_first];
  queue_first = (queue_first + 1) % kMaxThreads, --queue_length;
  return thread;
}

// ---- Messages --------------------------------------------------------------------------------------------------

struct Text {
  char text[64];
};

Text name_of(int thread) {
  Text name;
  const uint3& index = threads[thread].index;
  snprintf(name.text, sizeof name.text, "thread (%u, %u, %u)", index.x, index.y, index.z);
  return name;
}

Text name_of_block() {
  Text name;
  snprintf(name.text, sizeof name.text, "block (%u, %u, %u)", state.block.x, state.block.y, state.block.z);
  return name;
}

}  // namespace

void fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  Context abandoned;
  emulator_switch(&abandoned, &host);
  abort();
}

uint64_t block_of_turn(uint64_t turn) {
  return launch.order == 0 ? turn : launch.order == 1 ? block_count - 1 - turn : shuffled[turn];
}

bool on_a_stack(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(stacks) < kMaxThreads * kStackBytes; }

void misaligned(const void* address, int bytes, const char* what, Site site) {
  fail("misaligned access: %s needs an address that is a multiple of %d\n  %s:%d   %s, %s\n  address %p", what, bytes,
       site.file, site.line, name_of_block().text, name_of(current).text, address);
}

// ---- Switching -------------------------------------------------------------------------------------------------

namespace {

// Whether two lanes that wait, wait for each other.
bool agree(const Warp& warp, int a, int b) {
  return warp.mask[a] == warp.mask[b] && warp.operation[a] == warp.operation[b] &&
         warp.site[a].line == warp.site[b].line;
}

[[noreturn]] void explain_deadlock() {
  int waits = -1, differs = -1;  // two lanes that do not wait for each other, if nothing else is wrong
  for (int i = 0; i < thread_count; ++i) {
    const Thread& thread = threads[i];
    if (thread.status != Status::at_collective) continue;
    const Warp& warp = warps[i / kLanes];
    unsigned mask = warp.mask[i % kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      int other = i / kLanes * kLanes + lane;
      if (!(mask >> lane & 1) || other >= thread_count) continue;
      if (threads[other].status == Status::at_collective) {
        if (waits < 0 && !agree(warp, i % kLanes, lane)) waits = i, differs = other;
        continue;
      }
      if (threads[other].status == Status::done)
        fail("a warp waits for a lane that has exited\n  %s:%d   %s, %s waits, mask 0x%08x\n"
             "  lane %d, %s, has exited",
             thread.site.file, thread.site.line, name_of_block().text, name_of(i).text, mask, lane,
             name_of(other).text);
      fail("deadlock: a warp waits for a lane that waits at a barrier\n  %s:%d   %s, %s waits, mask 0x%08x\n"
           "  %s:%d   lane %d, %s, is at __syncthreads",
           thread.site.file, thread.site.line, name_of_block().text, name_of(i).text, mask, threads[other].site.file,
           threads[other].site.line, lane, name_of(other).text);
    }
  }
  if (waits < 0) abort();  // every thread that is alive waits at a barrier or for its warp
  const Warp& warp = warps[waits / kLanes];
  const Site &here = threads[waits].site, &there = threads[differs].site;
  fail("the lanes of a warp are at different operations, or name different masks\n"
       "  %s:%d   %s, %s, mask 0x%08x\n  %s:%d   %s, mask 0x%08x",
       here.file, here.line, name_of_block().text, name_of(waits).text, warp.mask[waits % kLanes], there.file,
       there.line, name_of(differs).text, warp.mask[differs % kLanes]);
}

// Every thread has come to __syncthreads: lets all of them go on.
void open_barrier() {
  if (alive != thread_count) {
    int waits = 0, gone = 0;
    for (int i = 0; i < thread_count; ++i) (threads[i].status == Status::done ? gone : waits) = i;
    fail("divergent barrier: threads wait at __syncthreads, but others have exited\n  %s:%d   %s, %s waits\n"
         "  %s has exited, as have %d others",
         threads[waits].site.file, threads[waits].site.line, name_of_block().text, name_of(waits).text,
         name_of(gone).text, thread_count - alive - 1);
  }
  const Thread& first = threads[0];
  int count = 0;
  for (int i = 0; i < thread_count; ++i) {
    const Thread& thread = threads[i];
    if (thread.site.line != first.site.line || strcmp(thread.site.file, first.site.file))
      fail("divergent barrier: threads of a block wait at different __syncthreads\n  %s:%d   %s, %s\n  %s:%d   %s",
           first.site.file, first.site.line, name_of_block().text, name_of(0).text, thread.site.file, thread.site.line,
           name_of(i).text);
    count += thread.predicate != 0;
  }
  vote_result = first.vote == Vote::count ? count : first.vote == Vote::all ? count == thread_count : count > 0;
  if (launch.checked) checker_barrier();
  waiting_at_barrier = 0;
  for (int i = 0; i < thread_count; ++i) threads[i].status = Status::ready;
  enqueue_all(0, thread_count, [](int) { return true; });
}

// The thread that goes on, or -1 when the block has finished.
int next_thread() {
  if (queue_length == 0) {
    if (alive == 0) return -1;
    if (waiting_at_barrier != alive) explain_deadlock();
    open_barrier();
  }
  return dequeue();
}

void become(int thread) {
  current = state.linear_thread = thread;
  state.thread = threads[thread].index;
}

// What runs on every stack: one thread of the block after another. One that ends leaves its stack, still warm in the
// cache, to the next that has not begun, so that a kernel without barriers needs a single stack.
void run_threads() {
  for (;;) {
    launch.kernel(launch.values);
    char* stack = threads[current].stack;
    threads[current].status = Status::done;
    --alive;
    int next = next_thread();
    if (next >= 0) {
      become(next);
      if (threads[next].status == Status::fresh) {
        threads[next].status = Status::ready;
        threads[next].stack = stack;
        continue;
      }
    }
    free_stacks[free_stack_count++] = stack;
    Context finished;
    emulator_switch(&finished, next < 0 ? &host : &threads[next].context);
  }
}

void go_on(Context* from, int thread) {
  become(thread);
  Thread& next = threads[thread];
  if (next.status == Status::fresh) {
    next.status = Status::ready;
    next.stack = free_stacks[--free_stack_count];
    prepare(&next.context, next.stack, thread * 192 % 8192, run_threads);
  }
  emulator_switch(from, &next.context);
}

void wait() {
  if (interrupted) fail(kInterrupted);
  int self = current, next = next_thread();
  if (next != self) go_on(&threads[self].context, next);
}

}  // namespace

int barrier(Vote vote, int predicate, Site site) {
  Thread& self = threads[current];
  self.status = Status::at_barrier, self.site = site, self.predicate = predicate, self.vote = vote;
  ++waiting_at_barrier;
  wait();
  return vote_result;
}

// ---- Warps -----------------------------------------------------------------------------------------------------

namespace {

float as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

float from_tf32(uint32_t bits) { return as_float(bits & 0xffffe000u); }
float from_bf16(uint32_t pair, int half) { return as_float(half ? pair & 0xffff0000u : pair << 16); }

// D = A B + D. Lane 4 g + t holds rows g and g + 8 of A and D, and column g of B (PTX manual, mma.m16n8k8, m16n8k16).
void multiply(Warp& warp, bool bf16) {
  float A[16][16], B[16][8], D[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    int g = lane / 4, t = lane % 4;
    const uint32_t *a = warp.in[lane], *b = a + 4, *d = a + 6;
    for (int i = 0; i < 4; ++i) {  // registers: rows g, g + 8 of the left half of A, then of its right half
      int row = g + i % 2 * 8, half = i / 2;
      if (bf16) {
        for (int j = 0; j < 2; ++j) A[row][half * 8 + 2 * t + j] = from_bf16(a[i], j);
      } else {
        A[row][half * 4 + t] = from_tf32(a[i]);
      }
    }
    for (int i = 0; i < 2; ++i) {
      if (bf16) {
        for (int j = 0; j < 2; ++j) B[i * 8 + 2 * t + j][g] = from_bf16(b[i], j);
      } else {
        B[i * 4 + t][g] = from_tf32(b[i]);
      }
    }
    for (int i = 0; i < 4; ++i) D[g + i / 2 * 8][2 * t + i % 2] = as_float(d[i]);
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < (bf16 ? 16 : 8); ++k)
      for (int column = 0; column < 8; ++column) D[row][column] += A[row][k] * B[k][column];
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) memcpy(&warp.out[lane][i], &D[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
}

void load_matrices(Warp& warp, bool transposed) {
  auto element = [&](int matrix, int row, int column) -> uint32_t {
    return warp.in[8 * matrix + row][column / 2] >> column % 2 * 16 & 0xffff;
  };
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) {
      int r = lane / 4, c = lane % 4 * 2;
      warp.out[lane][i] = transposed ? element(i, c, r) | element(i, c + 1, r) << 16
                                     : element(i, r, c) | element(i, r, c + 1) << 16;
    }
}

void shuffle(Warp& warp, unsigned lanes, int first_thread, Site site) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    unsigned source = warp.in[lane][0];
    if (source >= kLanes || !(lanes >> source & 1))
      fail("shuffle from a lane that does not take part\n  %s:%d   %s, %s takes the value of lane %d, mask 0x%08x",
           site.file, site.line, name_of_block().text, name_of(first_thread + lane).text, int(source), lanes);
    memcpy(warp.out[lane], &warp.in[source][1], 2 * sizeof(uint32_t));
  }
}

}  // namespace

void collective(Collective operation, unsigned mask, const uint32_t* in, int words_in, uint32_t* out, int words_out,
                Site site) {
  int self = current, lane = self % kLanes, first_thread = self - lane;
  int lane_count = std::min(kLanes, thread_count - first_thread);
  Warp& warp = warps[self / kLanes];
  unsigned lanes = lane_count == kLanes ? mask : mask & ((1u << lane_count) - 1);
  if (!(lanes >> lane & 1))
    fail("a lane that is not in its own mask\n  %s:%d   %s, %s is lane %d, mask 0x%08x", site.file, site.line,
         name_of_block().text, name_of(self).text, lane, mask);
  if (operation >= Collective::mma_tf32 && lane_count != kLanes)
    fail("mma and ldmatrix need whole warps\n  %s:%d   the last warp of a block of %d threads has %d lanes", site.file,
         site.line, thread_count, lane_count);
  if (words_in) memcpy(warp.in[lane], in, words_in * sizeof(uint32_t));
  warp.mask[lane] = mask, warp.operation[lane] = operation, warp.site[lane] = site;
  warp.arrived |= 1u << lane;
  threads[self].site = site;
  threads[self].status = Status::at_collective;
  bool complete = (warp.arrived & lanes) == lanes;
  for (unsigned left = lanes; complete && left; left &= left - 1) complete = agree(warp, lane, __builtin_ctz(left));
  if (complete) {  // the last one does the work; a lane that still waits with others will come here after that
    unsigned ballot = 0;
    switch (operation) {
      case Collective::sync:
        if (launch.checked) checker_warp(self / kLanes, lanes);
        break;
      case Collective::shuffle: shuffle(warp, lanes, first_thread, site); break;
      case Collective::ballot:
        for (int i = 0; i < kLanes; ++i) ballot |= lanes >> i & 1 ? warp.in[i][0] << i : 0;
        for (int i = 0; i < kLanes; ++i) warp.out[i][0] = lanes >> i & 1 ? ballot : warp.out[i][0];
        break;
      case Collective::mma_tf32: multiply(warp, false); break;
      case Collective::mma_bf16: multiply(warp, true); break;
      case Collective::ldmatrix: load_matrices(warp, false); break;
      case Collective::ldmatrix_transposed: load_matrices(warp, true); break;
    }
    warp.arrived &= ~lanes;
    enqueue_all(first_thread, lane_count, [=](int i) { return lanes >> i & 1; });
    for (int i = 0; i < lane_count; ++i)
      if (lanes >> i & 1) threads[first_thread + i].status = Status::ready;
  }
  wait();
  if (words_out) memcpy(out, warp.out[lane], words_out * sizeof(uint32_t));
}

// ---- cp.async --------------------------------------------------------------------------------------------------

void copy_async(void* to, const void* from, int bytes, int valid_bytes, const void* code, Site site) {
  if (reinterpret_cast<uintptr_t>(to) % bytes) misaligned(to, bytes, "cp.async, to shared memory,", site);
  if (reinterpret_cast<uintptr_t>(from) % bytes) misaligned(from, bytes, "cp.async, from global memory,", site);
  if (valid_bytes < 0 || valid_bytes > bytes)
    fail("cp.async of %d valid bytes out of %d\n  %s:%d   %s, %s", valid_bytes, bytes, site.file, site.line,
         name_of_block().text, name_of(current).text);
  if (launch.checked) {
    if (valid_bytes) check_access(from, valid_bytes, Kind::read, code);
    check_access(to, bytes, Kind::async_write, code);
  }
  auto& groups = threads[current].copies;
  if (groups.empty()) groups.emplace_back();
  Copy& copy = groups.back().emplace_back(Copy{to, bytes, code, {}});
  memcpy(copy.data, from, valid_bytes);
  memset(to, 0xff, bytes);
}

void commit_async() {
  auto& groups = threads[current].copies;
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}

void wait_async(int groups_that_may_be_missing) {
  auto& groups = threads[current].copies;
  // The last group is still open: it is not waited for, and does not count.
  int arriving = int(groups.size()) - 1 - groups_that_may_be_missing;
  if (arriving <= 0) return;
  for (int i = 0; i < arriving; ++i)
    for (const Copy& copy : groups[i]) {
      memcpy(copy.to, copy.data, copy.bytes);
      if (launch.checked) check_access(copy.to, copy.bytes, Kind::async_arrival, copy.code);
    }
  groups.erase(groups.begin(), groups.begin() + arriving);
}

// ---- The grid --------------------------------------------------------------------------------------------------

namespace {

void run_block(uint64_t block) {
  uint64_t width = launch.grid[0], row = block / width, height = launch.grid[1];
  state.block = {unsigned(block % width), unsigned(row % height), unsigned(row / height)};
  // Shared memory starts undefined: as NaN, so that whoever reads before he writes does not get away with it.
  memset(launch.shared_first, 0xff, launch.shared_end - launch.shared_first);
  memset(emulator_dynamic_shared, 0xff, launch.dynamic_shared);
  free_stack_count = 0;
  for (int i = thread_count - 1; i >= 0; --i) free_stacks[free_stack_count++] = stacks + i * kStackBytes;
  queue_first = queue_length = waiting_at_barrier = 0;
  alive = thread_count;
  for (int i = 0; i < thread_count; ++i) {
    threads[i].status = Status::fresh;
    threads[i].copies.clear();
  }
  for (Warp& warp : warps) warp.arrived = 0;
  if (launch.checked) checker_block(block);
  enqueue_all(0, thread_count, [](int) { return true; });
  go_on(&host, next_thread());
}

// Until a block fails or is interrupted.
void run_grid() {
  block_count = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  shuffled.resize(launch.order == 2 ? block_count : 0);  // module.py sees to it that they are not too many
  for (size_t i = 0; i < shuffled.size(); ++i) shuffled[i] = uint32_t(i);
  for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[random_below(uint32_t(i))]);
  for (uint64_t turn = 0; turn < block_count && !message[0] && !interrupted; ++turn) run_block(block_of_turn(turn));
}

}  // namespace
}  // namespace emulator

// Before the first launch, if Python's own handler is in place. Whoever puts another one there replaces ours.
extern "C" void emulator_handle_interrupts() {
  using namespace emulator;
  sigaction(SIGINT, nullptr, &handler_of_python);
  struct sigaction ours = handler_of_python;
  ours.sa_handler = interrupt;
  sigaction(SIGINT, &ours, nullptr);
}

// Runs a grid. The message of what went wrong, or nullptr. Not reentrant.
extern "C" const char* emulator_launch(const EmulatorLaunch* given) {
  using namespace emulator;
  launch = *given;
  message[0] = 0;
  if (!stacks) stacks = map_stacks(kMaxThreads);
  if (!stacks) return "there is no memory for the stacks of 1024 threads";
  thread_count = launch.block[0] * launch.block[1] * launch.block[2];
  state.block_size = dim3(launch.block[0], launch.block[1], launch.block[2]);
  state.grid_size = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
  unsigned width = launch.block[0], height = launch.block[1];
  for (unsigned i = 0; i < unsigned(thread_count); ++i)
    threads[i].index = {i % width, i / width % height, i / width / height};
  random_state = (launch.seed + 1) * 0x9E3779B97F4A7C15ull | 1;
  interrupted = 0;
  interruptible = launch.interruptible;
  run_grid();
  interruptible = 0;
  return interrupted ? kInterrupted : message[0] ? message : nullptr;
}
