// The checker: who touched which byte last, and whether anything says that he came first.
//
// In check mode a kernel is compiled with -fsanitize=thread, and calls a function before every read and write of
// memory. Those functions are not GCC's, they are below. For each four bytes of every array and of shared memory a
// `Cell` remembers the last write and the reads since. Two accesses to one address, at least one of them a write, by
// two threads, are a race unless something puts them in order:
//
//   __syncthreads   between any two threads of a block. `epoch` counts them: accesses of different epochs are in order.
//   __syncwarp      between the lanes that took part. `known[a][b]` is the time up to which lane a knows what b did.
//   nothing         between blocks of a launch; but atomic operations may meet each other.
//
// This does not depend on the order in which threads happened to run: one run finds the races of all orders (for the
// same data). A shuffle orders nothing: CUDA does not promise that it orders memory.

#include "checker.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

namespace emulator {
namespace {

enum Flags : uint8_t {
  kAtomicWrite = 1,  // the last write was atomic
  kOnTheWay = 2,     // a cp.async that nobody has waited for
  kManyWarps = 4,    // read by several warps of the block since its last barrier
  kManyBlocks = 8,   // read by several blocks
};

struct Cell {
  // Blocks are counted from 1: 0 is nobody. `time` is the warp's. `code` is an offset into the kernel's image.
  uint32_t write_block, write_epoch, write_time, write_code;
  uint32_t read_block, read_epoch, read_time, read_code;
  uint32_t read_lanes;
  uint16_t write_thread, read_thread;
  uint8_t flags;
};

struct Range {
  uintptr_t first, end;
  int shift;  // a cell is 2^shift bytes
  bool shared;
  std::vector<Cell> cells;
};

}  // namespace
}  // namespace emulator

extern "C" {
// As module.py reads them.
struct EmulatorRange {
  uint64_t first, bytes;
  int32_t shared;
};
struct EmulatorReport {
  int32_t what;  // see Violation in module.py
  uint32_t code, block, thread;
  uint32_t other_code, other_block, other_thread;
  int32_t bytes, writes;
  uint64_t address;
};
struct EmulatorAccess {
  uint32_t code;
  uint16_t thread;
  uint8_t bytes, shared_and_kind;  // kind in the low four bits
  uint64_t address;
};
}

namespace emulator {
namespace {

enum Violation : int32_t { kWriteWrite, kReadAfterWrite, kWriteAfterRead, kOutOfBounds, kUninitialised, kNotArrived };
constexpr size_t kMaxReports = 20;

std::vector<Range> ranges;
size_t last_range;
uintptr_t image_first, image_end;
std::vector<EmulatorReport> reports;

std::vector<EmulatorAccess> accesses;
int64_t logged_block;
size_t log_capacity;

uint32_t block, epoch;
uint32_t warp_time[kMaxThreads / kLanes];
uint32_t known[kMaxThreads / kLanes][kLanes][kLanes];

void report(Violation what, uint32_t code, uintptr_t address, int bytes, bool writes, uint32_t other_code = 0,
            uint32_t other_block = 1, uint32_t other_thread = 0) {
  for (const EmulatorReport& r : reports)
    if (r.what == what && r.code == code && r.other_code == other_code) return;  // once for a pair of instructions
  if (reports.size() < kMaxReports)
    reports.push_back({what, code, block - 1, uint32_t(state.linear_thread), other_code, other_block - 1, other_thread,
                       bytes, writes, address});
}

// Whether what `thread` of this block did at (epoch, time) comes before what the current thread does now.
bool ordered(uint32_t then_epoch, uint32_t time, unsigned thread) {
  unsigned self = state.linear_thread;
  if (thread == self || then_epoch != epoch) return true;
  return thread / kLanes == self / kLanes && known[self / kLanes][self % kLanes][thread % kLanes] > time;
}

// Some thread uses pieces of fewer than four bytes: from now on each byte has a cell of its own, with the same past.
void split(Range& range) {
  std::vector<Cell> cells(range.end - range.first);
  for (size_t i = 0; i < cells.size(); ++i) cells[i] = range.cells[i >> range.shift];
  range.cells.swap(cells);
  range.shift = 0;
}

void check_read(Cell& cell, bool shared, uintptr_t address, int bytes, uint32_t code) {
  unsigned self = state.linear_thread, warp = self / kLanes;
  if (cell.write_block) {
    bool race = cell.write_block != block ? !shared : !ordered(cell.write_epoch, cell.write_time, cell.write_thread);
    Violation what = cell.flags & kOnTheWay && cell.write_block == block ? kNotArrived : kReadAfterWrite;
    if (race || what == kNotArrived)
      report(what, code, address, bytes, false, cell.write_code, cell.write_block, cell.write_thread);
  }
  if (shared && cell.write_block != block) report(kUninitialised, code, address, bytes, false);

  bool first = cell.read_block != block || cell.read_epoch != epoch;
  if (cell.read_block && cell.read_block != block) cell.flags |= kManyBlocks;
  if (first) {
    cell.flags &= ~kManyWarps;
    cell.read_lanes = 0;
  } else if (cell.read_thread / kLanes != warp) {
    cell.flags |= kManyWarps;
  }
  cell.read_lanes |= 1u << self % kLanes;
  cell.read_block = block, cell.read_epoch = epoch, cell.read_time = warp_time[warp];
  cell.read_thread = uint16_t(self), cell.read_code = code;
}

void check_write(Cell& cell, bool shared, Kind kind, uintptr_t address, int bytes, uint32_t code) {
  unsigned self = state.linear_thread, warp = self / kLanes;
  if (cell.write_block && !(kind == Kind::atomic && cell.flags & kAtomicWrite)) {
    bool race = cell.write_block != block ? !shared : !ordered(cell.write_epoch, cell.write_time, cell.write_thread);
    if (race) report(kWriteWrite, code, address, bytes, true, cell.write_code, cell.write_block, cell.write_thread);
  }
  if (cell.read_block) {
    bool race;
    unsigned reader = cell.read_thread;
    if (!shared && (cell.read_block != block || cell.flags & kManyBlocks)) {
      race = true;
    } else if (cell.read_block != block || cell.read_epoch != epoch) {
      race = false;
    } else if (cell.flags & kManyWarps) {
      race = true;
    } else {
      race = false;
      for (int lane = 0; lane < kLanes; ++lane)
        if (cell.read_lanes >> lane & 1 && !ordered(epoch, cell.read_time, cell.read_thread / kLanes * kLanes + lane)) {
          race = true;
          reader = cell.read_thread / kLanes * kLanes + lane;
        }
    }
    if (race) report(kWriteAfterRead, code, address, bytes, true, cell.read_code, cell.read_block, reader);
  }
  cell.write_block = block, cell.write_epoch = epoch, cell.write_time = warp_time[warp];
  cell.write_thread = uint16_t(self), cell.write_code = code;
  cell.flags &= ~(kAtomicWrite | kOnTheWay);
  if (kind == Kind::atomic) cell.flags |= kAtomicWrite;
  if (kind == Kind::async_write) cell.flags |= kOnTheWay;
}

Range* find(uintptr_t first, uintptr_t end) {
  if (last_range < ranges.size() && first >= ranges[last_range].first && end <= ranges[last_range].end)
    return &ranges[last_range];
  for (Range& range : ranges)
    if (first >= range.first && end <= range.end) {
      last_range = &range - ranges.data();
      return &range;
    }
  return nullptr;
}

void check(uintptr_t address, int bytes, Kind kind, const void* code_address) {
  if (on_a_stack(address) || address - reinterpret_cast<uintptr_t>(&state) < sizeof(state)) return;
  uint32_t code = uint32_t(reinterpret_cast<uintptr_t>(code_address) - image_first - 1);  // -1: into the call itself
  bool writes = kind != Kind::read;
  Range* range = find(address, address + bytes);
  if (!range) {
    if (address >= image_first && address < image_end && !writes) return;  // a table of constants
    report(kOutOfBounds, code, address, bytes, writes);
    fail("out of bounds");  // module.py says the rest
  }
  if (block - 1 == logged_block && accesses.size() < log_capacity && kind != Kind::async_arrival)
    accesses.push_back({code, uint16_t(state.linear_thread), uint8_t(bytes),
                        uint8_t(range->shared << 4 | (writes ? kind == Kind::atomic ? 2 : 1 : 0)), address});
  if (range->shift && ((address - range->first) | bytes) & 3) split(*range);
  size_t i = (address - range->first) >> range->shift, end = (address + bytes - 1 - range->first) >> range->shift;
  for (; i <= end; ++i) {
    uintptr_t at = range->first + (i << range->shift);
    if (kind == Kind::read) check_read(range->cells[i], range->shared, at, bytes, code);
    else check_write(range->cells[i], range->shared, kind, at, bytes, code);
  }
}

}  // namespace

void check_access(const void* address, int bytes, Kind kind, const void* code) {
  check(reinterpret_cast<uintptr_t>(address), bytes, kind, code);
}

// A copy of a struct of some odd size: word by word, as a GPU would do it.
void check_range(const void* first, size_t bytes, Kind kind, const void* code) {
  uintptr_t address = reinterpret_cast<uintptr_t>(first);
  int piece = (address | bytes) & 3 ? 1 : 4;
  for (size_t i = 0; i < bytes; i += piece) check(address + i, piece, kind, code);
}

// ---- What the scheduler tells ----------------------------------------------------------------------------------

void checker_block(unsigned number) {
  block = number + 1;
  ++epoch;
  memset(known, 0, sizeof known);
  memset(warp_time, 0, sizeof warp_time);
}

void checker_barrier() { ++epoch; }

void checker_warp(int warp, unsigned lanes) {
  // Each lane that takes part now knows all that any of them knew, and what each of them has done up to now.
  uint32_t now = ++warp_time[warp], together[kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane)
    if (lanes >> lane & 1)
      for (int other = 0; other < kLanes; ++other)
        together[other] = lanes >> other & 1 ? now : std::max(together[other], known[warp][lane][other]);
  for (int lane = 0; lane < kLanes; ++lane)
    if (lanes >> lane & 1) memcpy(known[warp][lane], together, sizeof together);
}

}  // namespace emulator

// ---- What the compiled kernel calls ----------------------------------------------------------------------------

#define CALLER __builtin_return_address(0)
#define ACCESSES(bytes)                                                                                        \
  void __tsan_read##bytes(void* p) { emulator::check_access(p, bytes, emulator::Kind::read, CALLER); }        \
  void __tsan_write##bytes(void* p) { emulator::check_access(p, bytes, emulator::Kind::write, CALLER); }      \
  void __tsan_unaligned_read##bytes(void* p) { emulator::check_access(p, bytes, emulator::Kind::read, CALLER); } \
  void __tsan_unaligned_write##bytes(void* p) { emulator::check_access(p, bytes, emulator::Kind::write, CALLER); }

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* p, size_t bytes) { emulator::check_range(p, bytes, emulator::Kind::read, CALLER); }
void __tsan_write_range(void* p, size_t bytes) { emulator::check_range(p, bytes, emulator::Kind::write, CALLER); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// -fsanitize=bounds and =alignment hand over where the compiler saw the access: file, line, column.
struct UbsanSite {
  const char* file;
  uint32_t line, column;
};
struct UbsanMismatch {
  UbsanSite site;
  void* type;
  unsigned char log2_alignment, kind;
};
void __ubsan_handle_out_of_bounds(void* data, uintptr_t index) {
  const UbsanSite& site = *static_cast<UbsanSite*>(data);
  const uint3 &b = emulator::state.block, &t = emulator::state.thread;
  emulator::fail("out of bounds: index %lld is outside of an array\n  %s:%u   block (%u, %u, %u), thread (%u, %u, %u)",
                 (long long)(int32_t)index, site.file, site.line, b.x, b.y, b.z, t.x, t.y, t.z);
}
void __ubsan_handle_type_mismatch_v1(void* data, uintptr_t address) {
  const UbsanMismatch& mismatch = *static_cast<UbsanMismatch*>(data);
  emulator::misaligned((void*)address, 1 << mismatch.log2_alignment, "the type",
                       {mismatch.site.file, int(mismatch.site.line)});
}

// ---- What module.py calls --------------------------------------------------------------------------------------

void emulator_watch(const EmulatorRange* given, int count, uint64_t image_first, uint64_t image_end, int64_t log_block,
                    uint64_t log_capacity) {
  using namespace emulator;
  ranges.clear();
  for (int i = 0; i < count; ++i)
    ranges.push_back({given[i].first, given[i].first + given[i].bytes, 2, given[i].shared != 0,
                      std::vector<Cell>(given[i].bytes / 4 + 1)});
  emulator::image_first = image_first, emulator::image_end = image_end;
  last_range = 0;
  reports.clear();
  accesses.clear();
  logged_block = log_block, emulator::log_capacity = log_capacity;
}
size_t emulator_reports(const EmulatorReport** first) {
  *first = emulator::reports.data();
  return emulator::reports.size();
}
size_t emulator_accesses(const EmulatorAccess** first) {
  *first = emulator::accesses.data();
  return emulator::accesses.size();
}
}
