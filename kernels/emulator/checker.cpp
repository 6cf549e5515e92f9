// The checker: who touched which byte last, and whether anything says that he came first.
//
// In check mode a kernel is compiled with -fsanitize=thread, and calls a function before every read and write of
// memory. Those functions are not GCC's, they are below. For each four bytes of every array and of shared memory a
// `Cell` remembers the last write, and the reads and atomic operations since. Two accesses to one address, at least one
// of them a write, by two threads, are a race unless something puts them in order:
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
#include <array>
#include <vector>

namespace emulator {
namespace {

struct Access {
  uint32_t turn;  // of the block, counted from 1: 0 is nobody
  uint32_t epoch;
  uint32_t time;  // of the warp
  uint32_t code;  // an offset into the kernel's image
  uint16_t thread;
  bool on_the_way;  // a cp.async that nobody has waited for
};

// Accesses that need no order among themselves: reads, or atomic operations. Enough of them to find, for any later
// access, one that it is in no order with, if there was one.
struct Group {
  Access last;
  Access other;        // of another block than the last's, or else of another warp
  uint32_t lanes;      // of the last's warp: who else took part in its epoch
  uint32_t own_times;  // 1 + index into `lane_accesses`; 0 where all lanes had the time and the code of the last
};

// `reads` and `atomics` are those since the write: whoever comes after the write comes after what was before it.
struct Cell {
  Access write;
  Group reads;
  uint32_t atomics;  // 1 + index into `atomic_groups`; 0 where there never were any: in most cells
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
  uint32_t code, thread, other_code, other_thread;
  uint64_t block, other_block;
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
size_t log_capacity, accesses_left_out;

uint64_t block;        // the one that runs
uint32_t turn, epoch;  // which block of the launch it is; barriers and blocks so far
uint32_t warp_time[kMaxThreads / kLanes];
uint32_t known[kMaxThreads / kLanes][kLanes][kLanes];

struct LaneAccess {
  uint32_t time, code;
};
std::vector<std::array<LaneAccess, kLanes>> lane_accesses;  // of this epoch
std::vector<Group> atomic_groups;                           // of this launch

void report(Violation what, uint32_t code, uintptr_t address, int bytes, bool writes, const Access& other = {}) {
  for (const EmulatorReport& r : reports)
    if (r.what == what && r.code == code && r.other_code == other.code) return;  // once for a pair of instructions
  if (reports.size() < kMaxReports)
    reports.push_back({what, code, uint32_t(state.linear_thread), other.code, other.thread, block,
                       other.turn ? block_of_turn(other.turn - 1) : 0, bytes, writes, address});
}

// Whether nothing says that an access came before what the current thread does now.
bool unordered(const Access& then) {
  if (then.turn != turn) return then.turn != 0;
  unsigned self = state.linear_thread, warp = self / kLanes;
  if (then.thread == self || then.epoch != epoch) return false;
  return then.thread / kLanes != warp || known[warp][self % kLanes][then.thread % kLanes] <= then.time;
}

Access of_lane(const Group& group, unsigned lane) {
  Access access = group.last;
  access.thread = uint16_t(access.thread / kLanes * kLanes + lane);
  if (group.own_times) {
    const LaneAccess& own = lane_accesses[group.own_times - 1][lane];
    access.time = own.time, access.code = own.code;
  }
  return access;
}

// Whether one of a group is in no order with what the current thread does now, and which.
bool find_unordered(const Group& group, Access& found) {
  if (unordered(group.last)) return found = group.last, true;
  if (unordered(group.other)) return found = group.other, true;
  if (group.last.turn == turn && group.last.epoch == epoch)
    for (unsigned lanes = group.lanes & ~(1u << group.last.thread % kLanes); lanes; lanes &= lanes - 1)
      if (unordered(found = of_lane(group, __builtin_ctz(lanes)))) return true;
  return false;
}

void add(Group& group, const Access& now) {
  const Access& last = group.last;
  unsigned lane = now.thread % kLanes;
  if (last.epoch != epoch) group.own_times = 0;
  if (last.turn != turn || last.epoch != epoch || last.thread / kLanes != now.thread / kLanes) {
    // In this block one more warp is enough. That of another block stays, since it is in no order with any of this one.
    if (last.turn != turn || !group.other.turn || group.other.turn == turn) group.other = last;
    group.lanes = 0;
  } else if (last.time != now.time || last.code != now.code) {
    // Whoever comes after this access comes after those that it comes after: they need no watch.
    for (unsigned lanes = group.lanes; lanes; lanes &= lanes - 1)
      if (!unordered(of_lane(group, __builtin_ctz(lanes)))) group.lanes &= ~(lanes & -lanes);
    if (group.lanes && !group.own_times) {
      lane_accesses.emplace_back().fill({last.time, last.code});
      group.own_times = uint32_t(lane_accesses.size());
    }
  }
  if (group.own_times) lane_accesses[group.own_times - 1][lane] = {now.time, now.code};
  group.lanes |= 1u << lane;
  group.last = now;
}

// A copy of a group gets a copy of its lanes' times.
void own_times_apart(Group& copy) {
  if (!copy.own_times || copy.last.epoch != epoch) return;
  lane_accesses.push_back(std::array(lane_accesses[copy.own_times - 1]));
  copy.own_times = uint32_t(lane_accesses.size());
}

// Some thread uses pieces of fewer than four bytes: from now on each byte has a cell of its own, with the same past.
void split(Range& range) {
  std::vector<Cell> cells(range.end - range.first);
  for (size_t i = 0; i < cells.size(); ++i) {
    cells[i] = range.cells[i >> range.shift];
    if (cells[i].atomics) {
      atomic_groups.push_back(Group(atomic_groups[cells[i].atomics - 1]));
      cells[i].atomics = uint32_t(atomic_groups.size());
      own_times_apart(atomic_groups.back());
    }
    own_times_apart(cells[i].reads);
  }
  range.cells.swap(cells);
  range.shift = 0;
}

// Forgets what was before a write, or, if it is nobody's, before a block: what the shared memory of others held.
void begin(Cell& cell, const Access& write) {
  cell.write = write;
  cell.reads = {};
  if (cell.atomics) atomic_groups[cell.atomics - 1] = {};
}

void check_cell(Cell& cell, bool shared, Kind kind, uintptr_t address, int bytes, uint32_t code) {
  unsigned self = state.linear_thread;
  bool atomic = kind == Kind::atomic || kind == Kind::exchange;
  bool reads = kind == Kind::read || kind == Kind::atomic, writes = kind != Kind::read;
  Access now = {turn, epoch, warp_time[self / kLanes], code, uint16_t(self), kind == Kind::async_write}, other;
  if (atomic && !cell.atomics) atomic_groups.emplace_back(), cell.atomics = uint32_t(atomic_groups.size());
  Group* atomics = cell.atomics ? &atomic_groups[cell.atomics - 1] : nullptr;
  if (reads && shared && !cell.write.turn && !(atomics && atomics->last.turn))
    report(kUninitialised, code, address, bytes, writes);
  if (cell.write.on_the_way && cell.write.turn == turn && kind != Kind::async_arrival)
    report(kNotArrived, code, address, bytes, writes, cell.write);
  else if (unordered(cell.write))
    report(writes ? kWriteWrite : kReadAfterWrite, code, address, bytes, writes, cell.write);
  if (!atomic && atomics && find_unordered(*atomics, other))
    report(writes ? kWriteWrite : kReadAfterWrite, code, address, bytes, writes, other);
  if (writes && find_unordered(cell.reads, other)) report(kWriteAfterRead, code, address, bytes, writes, other);
  if (kind == Kind::read) add(cell.reads, now);
  else if (atomic) add(*atomics, now);
  else begin(cell, now);
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
  if (block == uint64_t(logged_block) && kind != Kind::async_arrival) {
    int logged_as = kind == Kind::atomic || kind == Kind::exchange ? 2 : writes;
    if (accesses.size() == log_capacity) ++accesses_left_out;
    else accesses.push_back({code, uint16_t(state.linear_thread), uint8_t(bytes),
                             uint8_t(range->shared << 4 | logged_as), address});
  }
  if (range->shift && ((address - range->first) | bytes) & 3) split(*range);
  size_t i = (address - range->first) >> range->shift, end = (address + bytes - 1 - range->first) >> range->shift;
  for (; i <= end; ++i)
    check_cell(range->cells[i], range->shared, kind, range->first + (i << range->shift), bytes, code);
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

void checker_block(uint64_t number) {
  block = number;
  ++turn;
  checker_barrier();
  for (Range& range : ranges)
    if (range.shared)
      for (Cell& cell : range.cells) begin(cell, {});
  memset(known, 0, sizeof known);
  memset(warp_time, 0, sizeof warp_time);
}

void checker_barrier() {
  ++epoch;
  lane_accesses.clear();
}

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
  accesses_left_out = 0;
  atomic_groups.clear();
  turn = 0;
  logged_block = log_block, emulator::log_capacity = log_capacity;
}
size_t emulator_reports(const EmulatorReport** first) {
  *first = emulator::reports.data();
  return emulator::reports.size();
}
size_t emulator_accesses(const EmulatorAccess** first, uint64_t* left_out) {
  *first = emulator::accesses.data();
  *left_out = emulator::accesses_left_out;
  return emulator::accesses.size();
}
}
