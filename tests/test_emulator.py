"""The emulator of CUDA kernels finds what it is there to find, and nothing in kernels that are right."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigan.kernels import emulator
from minigan.kernels.emulator import EmulatorError, RawModule, __main__, module, report, running

f32, i32 = np.float32, np.int32

needs_compiler = pytest.mark.skipif(not emulator.available(), reason="g++ is not installed")
pytestmark = needs_compiler


def zeros(*shape: int, dtype: Any = f32) -> np.ndarray:
    return np.zeros(shape, dtype)


# ---- Planted bugs. One text for all: it is compiled once. A, B mark the lines that a message must name ---------------

BUGS = """\
extern "C" {

__global__ void neighbour(float* x) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];                 // neighbour B
  x[threadIdx.x] = s[(threadIdx.x + 63) % 64];     // neighbour A
}

__global__ void overwritten(float* x) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  float v = s[(threadIdx.x + 32) % 64];            // overwritten B
  s[threadIdx.x] = v;                              // overwritten A
  x[threadIdx.x] = v;
}

__global__ void one_place(float* x) {
  __shared__ float s;
  s = x[threadIdx.x];                              // one_place A one_place B
  __syncthreads();
  x[threadIdx.x] = s;
}

__global__ void lanes(float* x) {
  __shared__ float s[32];
  s[threadIdx.x] = x[threadIdx.x];                 // lanes B
  float sum = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);  // orders nothing
  x[threadIdx.x] = sum + s[threadIdx.x ^ 1];       // lanes A
}

__global__ void half_a_warp(float* x) {
  __shared__ float s[32];
  s[threadIdx.x] = x[threadIdx.x];                 // half_a_warp B
  __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
  x[threadIdx.x] = s[threadIdx.x ^ 16];            // half_a_warp A
}

__global__ void blocks_write(float* x) {
  x[threadIdx.x] = blockIdx.x;                     // blocks_write A blocks_write B
}

__global__ void blocks_read(float* x) {
  if (blockIdx.x == 1) x[0] = 1;                   // blocks_read A
  else x[1 + threadIdx.x] = x[0];                  // blocks_read B
}

__global__ void atomic_and_plain(float* x) {
  if (threadIdx.x < 32) atomicAdd(x, 1.0f);        // atomic_and_plain B
  else x[0] = 0;                                   // atomic_and_plain A
}

__global__ void plain_then_atomic(float* x) {
  if (threadIdx.x == 0) x[0] = 3;                  // plain_then_atomic B
  atomicAdd(x, 1.0f);                              // plain_then_atomic A
}

__global__ void atomic_then_plain(float* x) {
  atomicAdd(x, 1.0f);                              // atomic_then_plain B
  if (threadIdx.x == 63) x[0] = 3;                 // atomic_then_plain A
}

__global__ void atomic_then_read(float* x) {
  atomicAdd(x, 1.0f);                              // atomic_then_read B
  if (threadIdx.x == 63) x[1] = x[0];              // atomic_then_read A
}

__global__ void reads_in_two_warps(float* x) {
  float v = x[0];                                  // reads_in_two_warps B
  if (threadIdx.x == 40) x[0] = v + 1;             // reads_in_two_warps A
}

__global__ void reads_in_two_blocks(float* x) {
  float v = x[0];                                  // reads_in_two_blocks B
  if (blockIdx.x == 1) x[0] = v + 1;               // reads_in_two_blocks A
}

__global__ void scan_in_place(float* x) {
  float left = threadIdx.x ? x[threadIdx.x - 1] : 0;  // scan_in_place B
  x[threadIdx.x] += left;                          // scan_in_place A
  __syncwarp();
}

__global__ void one_reader_left_out(float* x) {
  if (threadIdx.x == 0) x[1] = x[0];
  if (threadIdx.x < 2) __syncwarp(3);
  if (threadIdx.x == 2) x[2] = x[0];               // one_reader_left_out B
  if (threadIdx.x == 1) x[0] = 1;                  // one_reader_left_out A
}

__global__ void one_past(float* x, const float* y) {
  x[threadIdx.x] = y[threadIdx.x + 1];             // one_past A
}

__global__ void before(float* x) {
  x[int(threadIdx.x) - 1] = 0;                     // before A
}

__global__ void null_pointer(float* x) {
  x[threadIdx.x] = 1;                              // null_pointer A
}

__global__ void shared_index(float* x) {
  __shared__ float s[64];
  s[threadIdx.x + 1] = x[threadIdx.x];             // shared_index A
}

__global__ void dynamic_index(float* x) {
  extern __shared__ __align__(16) float dynamic[];
  dynamic[threadIdx.x + 1] = x[threadIdx.x];       // dynamic_index A
}

__global__ void unwritten(float* x) {
  __shared__ float s[64], t[64];
  s[threadIdx.x] = x[threadIdx.x];
  if (threadIdx.x < 63) t[threadIdx.x] = 1;
  __syncthreads();
  x[threadIdx.x] = s[threadIdx.x] + t[threadIdx.x];  // unwritten A
}

__global__ void unwritten_atomic(float* x) {
  __shared__ float s;
  atomicAdd(&s, x[threadIdx.x]);                   // unwritten_atomic A
}

__global__ void misaligned(float* x) {
  float4 v = *reinterpret_cast<float4*>(x + 2 * threadIdx.x);  // misaligned A
  x[threadIdx.x] = v.x;
}

__global__ void early(float* x) {
  __shared__ __align__(16) float s[64];
  cp_async<4>(&s[threadIdx.x], &x[threadIdx.x]);   // early B
  cp_async_commit();
  x[threadIdx.x] = s[threadIdx.x];                 // early A
}

__global__ void early_write(float* x) {
  __shared__ __align__(16) float s[64];
  cp_async<4>(&s[threadIdx.x], &x[threadIdx.x]);   // early_write B
  cp_async_commit();
  s[threadIdx.x] = 0;                              // early_write A
}

__global__ void async_without_barrier(float* x) {
  __shared__ __align__(16) float s[64];
  cp_async<4>(&s[threadIdx.x], &x[threadIdx.x]);   // async_without_barrier B
  cp_async_commit();
  cp_async_wait<0>();
  x[threadIdx.x] = s[63 - threadIdx.x];            // async_without_barrier A
}

// What is found in fast mode as well.

__global__ void misaligned_ld4(float* x) {
  float4 v = ld4(x + 2 * threadIdx.x);             // misaligned_ld4 A
  x[threadIdx.x] = v.x;
}

__global__ void two_barriers(float* x) {
  if (threadIdx.x < 5)
    __syncthreads();                               // two_barriers A
  else
    __syncthreads();                               // two_barriers B
}

__global__ void early_exit(float* x) {
  if (threadIdx.x < 5) return;
  __syncthreads();                                 // early_exit A
}

__global__ void early_exit_of_a_lane(float* x) {
  if (threadIdx.x < 5) return;
  x[0] = __shfl_down_sync(0xffffffffu, 1.0f, 1);   // early_exit_of_a_lane A
}

__global__ void deadlock(float* x) {
  if (threadIdx.x < 5) __syncwarp();               // deadlock A
  else __syncthreads();                            // deadlock B
}

__global__ void two_masks(float* x) {
  if (threadIdx.x < 16) __syncwarp(0x0001ffffu);   // two_masks B
  else __syncwarp(0xffff8000u);                    // two_masks A
}

__global__ void source_outside(float* x) {
  if (threadIdx.x < 16) x[0] = __shfl_sync(0x0000ffffu, 1.0f, threadIdx.x + 1);  // source_outside A
}

__global__ void not_in_mask(float* x) {
  x[threadIdx.x] = __shfl_sync(0x0000ffffu, 1.0f, 0);  // not_in_mask A
}

}
"""


@pytest.fixture(scope="module")
def bugs() -> RawModule:
    return RawModule(BUGS)


def marked(text: str, name: str) -> tuple[str, ...]:
    """The lines "kernel.cu:N" that are marked with "name A", "name B"."""
    numbers = [[n for n, line in enumerate(text.splitlines(), 1) if f"{name} {mark}" in line] for mark in "AB"]
    return tuple(f"kernel.cu:{n}" for found in numbers for n in found)


CHECKED: list[tuple[str, int, int, str, str]] = [
    # kernel, blocks, threads, what the message says first, and where
    ("neighbour", 1, 64, "race: a read of what another thread wrote", "shared array s, byte"),
    ("overwritten", 1, 64, "race: a write over what another thread reads", "two warps of one block: __syncthreads()"),
    ("one_place", 1, 64, "race: two writes to one place", "shared array s, byte 0"),
    ("lanes", 1, 32, "race: a read of what another thread wrote", "two lanes of one warp: __syncwarp()"),
    ("half_a_warp", 1, 32, "race: a read of what another thread wrote", "two lanes of one warp"),
    ("blocks_write", 2, 64, "race: two writes to one place", "argument 0 (float32, shape (64,)), element [0]"),
    ("blocks_read", 2, 1, "race: a write over what another thread reads", "two blocks of one launch"),
    ("atomic_and_plain", 1, 64, "race: two writes to one place", "argument 0 (float32, shape (64,)), element [0]"),
    ("plain_then_atomic", 1, 64, "race: two writes to one place", "two lanes of one warp"),
    ("atomic_then_plain", 1, 64, "race: two writes to one place", "two warps of one block"),
    ("atomic_then_read", 1, 64, "race: a read of what another thread wrote", "two warps of one block"),
    ("reads_in_two_warps", 1, 64, "race: a write over what another thread reads", "two warps of one block"),
    ("reads_in_two_blocks", 2, 1, "race: a write over what another thread reads", "two blocks of one launch"),
    ("scan_in_place", 1, 32, "race: a read of what another thread wrote", "two lanes of one warp"),
    ("one_reader_left_out", 1, 32, "race: a write over what another thread reads", "thread (2, 0, 0)"),
    ("before", 1, 64, "out of bounds", "element -1 of argument 0 (float32, shape (64,)), which has 64"),
    ("shared_index", 1, 64, "out of bounds: index 64", "block (0, 0, 0), thread (63, 0, 0)"),
    ("dynamic_index", 1, 64, "out of bounds", "byte 256 of dynamic shared memory, which has 256"),
    ("unwritten", 1, 64, "uninitialised", "shared array t, byte 252"),
    ("unwritten_atomic", 1, 64, "uninitialised", "shared array s, byte 0"),
    ("misaligned", 1, 2, "misaligned access", "a multiple of 16"),
    ("early", 1, 64, "too early", "shared array s, byte 0"),
    ("early_write", 1, 64, "too early", "written by block (0, 0, 0), thread (0, 0, 0)"),
    ("async_without_barrier", 1, 64, "race: a read of what another thread wrote", "shared array s"),
]

ALWAYS: list[tuple[str, int, int, str, str]] = [
    ("misaligned_ld4", 1, 2, "misaligned access", "ld4 needs an address that is a multiple of 16"),
    (
        "two_barriers",
        1,
        64,
        "divergent barrier: threads of a block wait at different __syncthreads",
        "thread (5, 0, 0)",
    ),
    ("early_exit", 1, 64, "divergent barrier: threads wait at __syncthreads, but others have exited", "4 others"),
    ("early_exit_of_a_lane", 1, 64, "a warp waits for a lane that has exited", "lane 0, thread (0, 0, 0), has exited"),
    ("deadlock", 1, 64, "deadlock: a warp waits for a lane that waits at a barrier", "lane 5, thread (5, 0, 0)"),
    ("two_masks", 1, 32, "the lanes of a warp are at different operations, or name different masks", "mask 0x0001ffff"),
    ("source_outside", 1, 64, "shuffle from a lane that does not take part", "takes the value of lane 16"),
    ("not_in_mask", 1, 17, "a lane that is not in its own mask", "thread (16, 0, 0) is lane 16, mask 0x0000ffff"),
]


def fails(bugs: RawModule, name: str, blocks: int, threads: int, says: str, where: str) -> None:
    x = np.arange(64, dtype=f32)
    with pytest.raises(EmulatorError) as caught:
        bugs.get_function(name)(blocks, threads, (x,), shared_mem=256 if name == "dynamic_index" else 0)
    message = str(caught.value)
    assert f"{name}: {says}" in message
    assert where in message
    for line in marked(BUGS, name):
        assert f"{line} " in message, (line, message)
    for race in message.split("race: ")[1:]:
        one, other = re.findall(r" by (block .*)", race)[:2]
        assert one != other


@pytest.mark.parametrize("order", module.ORDERS)
@pytest.mark.parametrize("bug", CHECKED, ids=lambda bug: bug[0])
def test_check_mode_finds(bugs: RawModule, bug: tuple[str, int, int, str, str], order: module.Order) -> None:
    if order != "forward":  # other threads are the first to meet the bug, and a race may be met from its other side
        bug = (*bug[:3], bug[3].partition(":")[0], "")
    with running(order=order, check=True) as run:
        fails(bugs, *bug)
    assert run.reports
    assert all(r.kernel == bug[0] for r in run.reports)


@pytest.mark.parametrize("mode", [{}, {"order": "reverse"}, {"check": True}], ids=str)
@pytest.mark.parametrize("bug", ALWAYS, ids=lambda bug: bug[0])
def test_every_mode_finds(bugs: RawModule, bug: tuple[str, int, int, str, str], mode: Any) -> None:
    with running(**mode):
        fails(bugs, *bug)


def test_one_past_the_end_is_found_even_where_the_next_argument_begins(bugs: RawModule) -> None:
    memory = zeros(256)
    with running(check=True), pytest.raises(EmulatorError) as caught:
        bugs.get_function("one_past")(1, 64, (memory[128:192], memory[64:128]))
    assert f"{marked(BUGS, 'one_past')[0]} " in str(caught.value)
    assert "element 64 of argument 1 (float32, shape (64,)), which has 64" in str(caught.value)


def test_null_pointer(bugs: RawModule) -> None:
    with running(check=True), pytest.raises(EmulatorError, match="address 0: a null pointer"):
        bugs.get_function("null_pointer")(1, 64, (None,))


def test_a_missing_barrier_shows_in_one_of_two_orders(bugs: RawModule) -> None:
    kernel, right = bugs.get_function("neighbour"), np.roll(np.arange(64, dtype=f32), 1)
    results = []
    for order in ("forward", "reverse"):
        x = np.arange(64, dtype=f32)
        with running(order=order):  # type: ignore[arg-type]
            kernel(1, 64, (x,))
        results.append(np.array_equal(x, right))
    assert not all(results)


# ---- Kernels that are right -----------------------------------------------------------------------------------------

RIGHT = """\
#line 1 "folder/right.cu"
#define KERNEL(name) extern "C" __global__ void name

KERNEL(exchange)(float* x) {  // in each block, by three kinds of order
  extern __shared__ float dynamic[];
  __shared__ unsigned short halves[64];
  int t = threadIdx.x, i = blockIdx.x * 64 + t;
  dynamic[t] = x[i];
  __syncwarp();
  float v = dynamic[t ^ 1];
  __syncthreads();
  dynamic[63 - t] = v;
  halves[t] = t;
  __syncthreads();
  x[i] = dynamic[t] + halves[t ^ 1];
  dynamic[t] = 0;
}

KERNEL(atomics)(float* f, double* d, int* i, unsigned* u, unsigned long long* l) {
  atomicAdd(f, 1.0f);
  atomicAdd(d, 0.5);
  atomicMax(i, int(threadIdx.x)), atomicMin(i + 1, -int(threadIdx.x)), atomicCAS(i + 2, 0, 7);
  atomicAdd(u, 1), atomicOr(u + 1, 1u << threadIdx.x % 32);
  atomicAdd(l, 1ull << 32);
  atomicExch(i + 3, 9);
}

KERNEL(votes)(int* out) {
  int t = threadIdx.x, n = 0;
  n += __syncthreads_count(t < 5);
  n += 100 * __syncthreads_and(t < 64) + 1000 * __syncthreads_and(t < 63);
  n += 10000 * (__syncthreads_or(t == 63) != 0);
  n += 100000 * (__popc(__ballot_sync(0xffffffffu, t % 2)) == 16) + 1000000 * __any_sync(0xffffffffu, t == 40);
  out[t] = n;
}

template <typename T>
__device__ T shuffled(T v, int t) {
  T sum = __shfl_sync(0xffffffffu, v, 3) + 10 * __shfl_up_sync(0xffffffffu, v, 1);
  return sum + 100 * __shfl_down_sync(0xffffffffu, v, 2, 8) + 1000 * __shfl_xor_sync(0xffffffffu, v, 4);
}
KERNEL(shuffles)(double* d, int* i) {
  d[threadIdx.x] = shuffled<double>(threadIdx.x, threadIdx.x);
  i[threadIdx.x] = shuffled<int>(threadIdx.x, threadIdx.x);
}

KERNEL(scan)(float* x) {  // inclusive, by one warp
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  __syncwarp();
  for (int by = 1; by < 32; by *= 2) {
    float left = t < by ? 0 : s[t - by];
    __syncwarp();
    s[t] += left;
    __syncwarp();
  }
  x[t] = s[t];
}

KERNEL(pairs)(float* x) {  // lane 1 writes what 0 and 2 have read; neither of them knows of the other
  if (threadIdx.x == 0) x[3] = x[1];
  if (threadIdx.x < 2) __syncwarp(3);
  if (threadIdx.x == 2) x[2] = x[1];
  if (threadIdx.x == 1 || threadIdx.x == 2) __syncwarp(6);
  if (threadIdx.x == 1) x[1] = 5;
}

KERNEL(counted)(int* n) {
  __shared__ int count;
  if (threadIdx.x == 0) atomicExch(&count, 0);
  __syncthreads();
  atomicAdd(&count, threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) *n = count;
}

struct Job { const float* from; float scale; int n; };
KERNEL(by_value)(Job job, float* to, unsigned char flag) {
  for (int i = threadIdx.x; i < job.n; i += blockDim.x) to[i] = flag ? job.scale * job.from[i] : 0;
}

template <int by>
__global__ void __launch_bounds__(64) scaled(float* __restrict__ x, int n) {
  int i = (blockIdx.z * gridDim.y + blockIdx.y) * blockDim.x * blockDim.y + threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int k = 0; k < 1; ++k)
    if (i < n) x[i] *= by * SCALE;
}

KERNEL(copy_async)(const float* x, float* y) {  // the second group has not arrived at the first wait
  __shared__ __align__(16) float s[2][128];
  int t = threadIdx.x;
  cp_async<16>(&s[0][4 * t], x + 4 * t, t == 31 ? 8 : 16);
  cp_async_commit();
  cp_async<8>(&s[1][4 * t], x + 4 * t), cp_async<8>(&s[1][4 * t + 2], x + 4 * t + 2);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) y[4 * t + i] = s[0][127 - 4 * t - i];
#ifndef MINIGAN_EMULATOR_CHECK
  y[128 + t] = s[1][4 * t];
#endif
  cp_async_wait<0>();
  __syncthreads();
  y[160 + t] = s[1][127 - 4 * t];
}

KERNEL(tensor_cores)(const float* a, const float* b, float* c, const unsigned* a16, const unsigned* b16, float* c16) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned x[4], y[2];
  float d[4] = {1, 1, 1, 1};  // a (16, 8), b (8, 8)
  for (int i = 0; i < 4; ++i) x[i] = __float_as_uint(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
  for (int i = 0; i < 2; ++i) y[i] = __float_as_uint(b[(t + i * 4) * 8 + g]);
  mma_m16n8k8_tf32(d, x, y);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i];

  // a16 (16, 16) row by row and b16 (16, 8) column by column, in pairs
  __shared__ __align__(16) unsigned rows[16 * 8];
  for (int i = threadIdx.x; i < 128; i += 32) rows[i] = a16[i];
  __syncwarp();
  ldmatrix_x4(x, &rows[(threadIdx.x % 16) * 8 + threadIdx.x / 16 * 4]);
  for (int i = 0; i < 2; ++i) y[i] = b16[g * 8 + t + 4 * i];
  float e[4] = {};
  mma_m16n8k16_bf16(e, x, y);
  for (int i = 0; i < 4; ++i) c16[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = e[i];
}

KERNEL(transposed)(const unsigned* in, unsigned* out) {  // four (8, 8) matrices of 16-bit numbers
  __shared__ __align__(16) unsigned rows[128];
  for (int i = threadIdx.x; i < 128; i += 32) rows[i] = in[i];
  __syncwarp();
  unsigned x[4];
  ldmatrix_x4_trans(x, &rows[4 * threadIdx.x]);
  for (int i = 0; i < 4; ++i) out[32 * i + threadIdx.x] = x[i];
}

KERNEL(functions)(float* f, double* d, unsigned* u) {
  float x = f[0], s, c;
  double y = d[0], sd, cd;
  sincosf(x, &s, &c), sincospi(y, &sd, &cd);
  f[1] = rsqrtf(x), f[2] = __expf(x), f[3] = __logf(x), f[4] = s, f[5] = max(x, 2), f[6] = min(x, 0.25f);
  f[7] = tanh(x), f[8] = log1p(x), f[9] = __fdividef(x, 2), f[10] = isfinite(x / 0.0f), f[11] = fmaxf(nanf(""), x);
  d[1] = rsqrt(y), d[2] = expm1(y), d[3] = cd, d[4] = max(y, 2.0), d[5] = __longlong_as_double(__double_as_longlong(y));
  u[1] = __umulhi(u[0], 16u), u[2] = __popc(u[0]), u[3] = __clz(int(u[0])), u[4] = __float_as_uint(x);
  u[5] = __brev(1u), u[6] = __ffs(8), u[7] = __byte_perm(0x03020100u, 0x07060504u, 0x7531u);
  uint4 q = make_uint4(1, 2, 3, 4);
  u[8] = q.w;
}
"""


@pytest.fixture(scope="module")
def right() -> RawModule:
    return RawModule(RIGHT, ("-DSCALE=2", "--use_fast_math", "-arch=sm_90"), name_expressions=["scaled<3>"])


@pytest.fixture(params=[(order, check) for check in (False, True) for order in module.ORDERS], ids=str)
def every_mode(request: pytest.FixtureRequest) -> Any:
    order, check = request.param
    with running(order=order, check=check, seed=1) as run:
        yield run
    assert not run.reports


def test_barriers(right: RawModule, every_mode: Any) -> None:
    x = np.arange(192, dtype=f32)
    right.get_function("exchange")(3, 64, (x,), shared_mem=256)
    pairs = np.arange(192).reshape(3, 32, 2)[..., ::-1].reshape(3, 64)
    assert x.reshape(3, 64).tolist() == (pairs[:, ::-1] + pairs[0]).tolist()


def test_atomics(right: RawModule, every_mode: Any) -> None:
    f, d, i, u, n = zeros(1), zeros(1, dtype="f8"), zeros(4, dtype="i4"), zeros(2, dtype="u4"), zeros(1, dtype="u8")
    right.get_function("atomics")((2, 2), 64, (f, d, i, u, n))
    assert (f[0], d[0], i.tolist(), u.tolist(), n[0]) == (256, 128, [63, -63, 7, 9], [256, 2**32 - 1], 256 << 32)


def test_votes(right: RawModule, every_mode: Any) -> None:
    out = zeros(64, dtype="i4")
    right.get_function("votes")(1, 64, (out,))
    assert out.tolist() == [110105] * 32 + [1110105] * 32


def test_shuffles(right: RawModule, every_mode: Any) -> None:
    d, i, t = zeros(32, dtype="f8"), zeros(32, dtype="i4"), np.arange(32)
    right.get_function("shuffles")(1, 32, (d, i))
    down = np.where(t % 8 < 6, t + 2, t)
    assert (i == 3 + 10 * np.maximum(t - 1, 0) + 100 * down + 1000 * (t ^ 4)).all()
    assert (d == i).all()


def test_warps_that_read_wait_and_write(right: RawModule, every_mode: Any) -> None:
    x = np.arange(32, dtype=f32)
    right.get_function("scan")(1, 32, (x,))
    assert x.tolist() == np.arange(32).cumsum().tolist()


def test_pairs_of_lanes(right: RawModule, every_mode: Any) -> None:
    for every_mode.seed in range(8):  # in some orders lane 2 comes while lane 1 still waits for lane 0
        x = np.arange(4, dtype=f32)
        right.get_function("pairs")(1, 32, (x,))
        assert x.tolist() == [0, 5, 1, 1]


def test_a_counter_in_shared_memory(right: RawModule, every_mode: Any) -> None:
    n = zeros(1, dtype="i4")
    right.get_function("counted")(1, 64, (n,))
    assert n[0] == 63 * 32


JOB = np.dtype([("from", "u8"), ("scale", "f4"), ("n", "i4")], align=True)


def test_structs_by_value(right: RawModule, every_mode: Any) -> None:
    x, y = np.arange(100, dtype=f32), zeros(100)
    for job in (np.array((x.ctypes.data, 3, 100), JOB), np.array((x.ctypes.data, 3, 100), JOB)[()]):
        y[:] = 0
        right.get_function("by_value")(1, 64, (job, y, np.True_), touches=[x])
        assert (y == 3 * x).all()


def test_what_a_struct_points_at_is_checked(right: RawModule) -> None:
    x, y = zeros(100), zeros(200)
    kernel, job = right.get_function("by_value"), np.array((x.ctypes.data, 3, 101), JOB)
    with running(check=True):
        with pytest.raises(EmulatorError, match=r"element 100 of touches\[0\] \(float32, shape \(100,\)\)"):
            kernel(1, 64, (job, y, np.True_), touches=[x])
        with pytest.raises(EmulatorError, match="out of bounds"):
            kernel(1, 64, (job, y, np.True_))


def test_templates_macros_and_grids(right: RawModule, every_mode: Any) -> None:
    x = np.ones(250, f32)
    right.get_function("scaled<3>")((1, 2, 2), (32, 2, 1), (x, i32(250)))
    assert (x == 6).all()


def test_copies_arrive_when_they_are_waited_for(right: RawModule, every_mode: Any) -> None:
    x, y = np.arange(128, dtype=f32), zeros(192)
    right.get_function("copy_async")(1, 32, (x, y))
    assert y[:128].tolist() == [0, 0, *x[:126][::-1]]
    assert np.isnan(y[128:160]).all() or every_mode.check  # poison; in check mode it would be a violation
    assert y[160:].tolist() == x[127::-4].tolist()


def bfloat16(x: np.ndarray) -> np.ndarray:
    """The upper halves, as 16-bit integers."""
    return (np.ascontiguousarray(x, f32).view("u4") >> 16).astype("u2")


def test_tensor_cores(right: RawModule, every_mode: Any) -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((16, 8)).astype(f32), random.standard_normal((8, 8)).astype(f32)
    a16, b16 = random.integers(-9, 9, (16, 16)), random.integers(-9, 9, (16, 8))
    c, c16 = zeros(16, 8), zeros(16, 8)
    packed = bfloat16(a16).view("u4"), np.ascontiguousarray(bfloat16(b16).T).view("u4")
    right.get_function("tensor_cores")(1, 32, (a, b, c, *packed, c16))
    truncated = [(x.view("u4") & 0xFFFFE000).view(f32) for x in (a, b)]
    np.testing.assert_allclose(c, 1 + truncated[0] @ truncated[1], rtol=0, atol=1e-5)
    assert (c16 == a16 @ b16).all()


def test_ldmatrix_transposed(right: RawModule, every_mode: Any) -> None:
    matrices, out = np.arange(256, dtype="u2").reshape(4, 8, 8), zeros(4, 8, 4, dtype="u4")
    right.get_function("transposed")(1, 32, (matrices.view("u4"), out))
    assert (out.view("u2") == matrices.transpose(0, 2, 1)).all()


def test_functions(right: RawModule) -> None:
    f, d, u = zeros(12), zeros(6, dtype="f8"), zeros(9, dtype="u4")
    f[0] = d[0] = 0.5
    u[0] = 3 << 29
    right.get_function("functions")(1, 1, (f, d, u))
    expected = [2**0.5, np.e**0.5, np.log(0.5), np.sin(0.5), 2, 0.25, np.tanh(0.5), np.log(1.5), 0.25, 0, 0.5]
    np.testing.assert_allclose(f[1:], expected, rtol=1e-6)
    np.testing.assert_allclose(d[1:], [2**0.5, np.expm1(0.5), 0, 2, 0.5], atol=1e-15)
    assert u[1:].tolist() == [6, 2, 1, 0x3F000000, 1 << 31, 4, 0x07050301, 4]


# ---- Launches that a GPU would refuse, or would run into the woods ---------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ([1], TypeError, "argument 0 is 1, whose C type would be a guess; pass a NumPy scalar, such as numpy.int32"),
        ([], TypeError, "neighbour takes 1 arguments, but 0 were given"),
        ([f32(1)], TypeError, "argument 0 is one float32, but the kernel takes a pointer to 4-byte floating point"),
        ([zeros(64, dtype="f8")], TypeError, "argument 0 is an array of float64, but the kernel takes a pointer to 4"),
        ([zeros(8, 8).T], ValueError, r"argument 0 of shape \(8, 8\) is not C-contiguous"),
        (
            [np.frombuffer(bytes(256), f32)],
            ValueError,
            "argument 0 is read-only, but the kernel takes a pointer to what",
        ),
    ],
)
def test_arguments_that_do_not_fit(bugs: RawModule, args: list[Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        bugs.get_function("neighbour")(1, 64, args)


def test_numbers_that_do_not_fit(right: RawModule) -> None:
    with pytest.raises(TypeError, match="argument 1 is one int64, but the kernel takes a 4-byte integer"):
        right.get_function("scaled<3>")(1, 64, (zeros(3), np.int64(3)))
    with pytest.raises(TypeError, match="argument 1 is an array of int32, but the kernel takes a 4-byte integer"):
        right.get_function("scaled<3>")(1, 64, (zeros(3), zeros(1, dtype="i4")))


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        (0, 64, 0, r"grid is \(0,\); it takes one to three whole numbers from 1 to \(2147483647, 65535, 65535\)"),
        ((1, 1, 1, 1), 64, 0, "grid is"),
        ((1.5,), 64, 0, r"grid is \(1.5,\); it takes one to three whole numbers"),
        (1.5, 64, 0, r"grid is \(1.5,\); it takes one to three whole numbers"),
        ((1, 65536), 64, 0, r"grid is \(1, 65536\); it takes"),
        (2**31, 64, 0, r"grid is \(2147483648,\); it takes"),
        (1, 1025, 0, "block is"),
        (1, (32, 33), 0, r"block \(32, 33, 1\) has 1056 threads; at most 1024"),
        (1, 64, 50000, "50000 bytes of dynamic shared memory, but max_dynamic_shared_size_bytes is 48896"),
    ],
)
def test_sizes_that_no_gpu_takes(bugs: RawModule, grid: Any, block: Any, shared: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bugs.get_function("neighbour")(grid, block, (zeros(64),), shared_mem=shared)


LARGEST = (2**31 - 1, 65535, 65535)


@pytest.mark.parametrize(("name", "check"), [("not_in_mask", False), ("null_pointer", True)])
def test_the_largest_grid(bugs: RawModule, name: str, check: bool) -> None:
    with running(order="reverse", check=check):  # the last block is the first to fail
        with pytest.raises(EmulatorError, match=r"block \(2147483646, 65534, 65534\)"):
            bugs.get_function(name)(LARGEST, 64, (None,))
        with pytest.raises(EmulatorError, match=r"block \(65535, 32767, 1\)"):  # 2^32 blocks
            bugs.get_function(name)((65536, 32768, 2), 64, (None,))
    with (
        running(order="random", check=check),
        pytest.raises(ValueError, match=f"{name}: random order is for 67108864 blocks at most, but grid .* has 9223"),
    ):
        bugs.get_function(name)(LARGEST, 64, (None,))


def test_more_threads_than_the_launch_bounds_promise() -> None:
    bounded = 'extern "C" __global__ void __launch_bounds__((WARPS) * 32, 2) bounded(float* x) { x[threadIdx.x] = 1; }'
    kernel = RawModule(bounded, ("-DWARPS=2",)).get_function("bounded")
    kernel(1, 64, (zeros(65),))
    with pytest.raises(ValueError, match="bounded: 65 threads, but its __launch_bounds__ promise 64 at most"):
        kernel(1, 65, (zeros(65),))


def test_as_much_shared_memory_as_there_is(right: RawModule) -> None:
    kernel = right.get_function("exchange")
    static = 32 * 4  # bytes of its own array
    assert kernel.max_dynamic_shared_size_bytes == (48 << 10) - static
    kernel.max_dynamic_shared_size_bytes = (227 << 10) - static
    kernel(1, 64, (zeros(64),), shared_mem=(227 << 10) - static)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("__device__ int counter;", "counter: the emulator has no global __device__ or __constant__ variables"),
        ("__device__ float table[2] = {1, 2};", "table: the emulator has no global"),
        ('extern "C" __global__ void k(int* x) { __shared__ int s[64][200]; s[*x][0] = 1; *x = s[0][*x]; }',
         "k: 51200 bytes of static __shared__ arrays, of which a GPU has 49152"),
        ('#line 7 "my.cu"\nextern "C" __global__ void k(int* x)\n{ *x = none; }', r"my\.cu:8:8: error: .none."),
        ("__global__ void k(int* x) {}", "there is no kernel 'k' in kernel.cu; its extern \"C\" kernels are: none"),
    ],
)  # fmt: skip
def test_texts_that_are_refused(code: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        RawModule(code).get_function("k")


def test_line_directives(right: RawModule) -> None:
    kernel, line = right.get_function("exchange"), RIGHT.splitlines().index("  dynamic[t] = x[i];")
    with (
        running(check=True),
        pytest.raises(EmulatorError, match=rf"  folder/right\.cu:{line}   read by block \(1, 0, 0\)"),
    ):
        kernel(2, 64, (zeros(64),), shared_mem=256)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="there is no order 'sideways'; choose one of forward, reverse, random"):
        running(order="sideways").__enter__()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs check=True"):
        running(log_block=0).__enter__()
    with pytest.raises(TypeError, match="give code= or path=, one of the two"):
        RawModule()


# ---- The report ------------------------------------------------------------------------------------------------------

PATTERNS = """\
extern "C" __global__ void patterns(const float* x, float* y) {
  __shared__ __align__(16) float s[32 * 33];
  int t = threadIdx.x;
  float sum = x[t];
  sum += x[t + 1];
  sum += x[2 * t];
  sum += x[32 * t];
  sum += x[5];
  sum += ld4(x + 4 * t).x;
  s[t] = sum;
  s[4 * t] = sum;
  s[33 * t] = sum;
  st4(s + 4 * t, make_float4(sum, 0, 0, 0));
  __syncwarp();
  sum += s[0];
  reinterpret_cast<double*>(s)[t] = sum;
  y[t] = sum;
}
"""


def recorded(code: str, threads: int, args: Sequence[Any]) -> list[report.Cost]:
    with running(check=True, log_block=0) as run:
        RawModule(code).get_function("patterns")(1, threads, args)
    return report.costs(run.launches[0])


def test_bank_conflicts_and_coalescing() -> None:
    # Writes to one place by several lanes are not the point here.
    code = PATTERNS.replace("  s[4 * t]", "  __syncwarp();\n  s[4 * t]").replace("  s[33", "  __syncwarp();\n  s[33")
    code = code.replace("  st4(s", "  __syncwarp();\n  st4(s").replace("  rein", "  __syncwarp();\n  rein")
    lines = report.source_lines(code, "kernel.cu")
    table = {
        lines[c.line].strip(): (c.memory, c.access, c.bytes, c.accesses, c.requests, c.cost, c.best)
        for c in recorded(code, 32, (zeros(1024), zeros(32)))
    }
    assert table == {
        "float sum = x[t];": ("global", "read", 4, 32, 1, 4, 4),
        "sum += x[t + 1];": ("global", "read", 4, 32, 1, 5, 4),
        "sum += x[2 * t];": ("global", "read", 4, 32, 1, 8, 4),
        "sum += x[32 * t];": ("global", "read", 4, 32, 1, 32, 4),
        "sum += x[5];": ("global", "read", 4, 32, 1, 1, 1),
        "sum += ld4(x + 4 * t).x;": ("global", "read", 16, 32, 1, 16, 16),
        "s[t] = sum;": ("shared", "write", 4, 32, 1, 1, 1),
        "s[4 * t] = sum;": ("shared", "write", 4, 32, 1, 4, 1),
        "s[33 * t] = sum;": ("shared", "write", 4, 32, 1, 1, 1),
        "st4(s + 4 * t, make_float4(sum, 0, 0, 0));": ("shared", "write", 16, 32, 1, 4, 4),
        "sum += s[0];": ("shared", "read", 4, 32, 1, 1, 1),
        "reinterpret_cast<double*>(s)[t] = sum;": ("shared", "write", 8, 32, 1, 2, 2),
        "y[t] = sum;": ("global", "write", 4, 32, 1, 4, 4),
    }


def test_a_log_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_CAPACITY", 4)
    code = 'extern "C" __global__ void patterns(float* x) { x[threadIdx.x] = 1; }'
    assert recorded(code, 4, (zeros(4),))
    with pytest.raises(ValueError, match="patterns: the block makes 5 accesses, of which the log holds 4; report on a"):
        recorded(code, 5, (zeros(5),))


SOURCE = """\
extern "C" __global__ void scale(float a, float* x, int n) {
  __shared__ float s[4 * 32];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  s[4 * threadIdx.x] = i < n + SLIP ? x[i] : 0;
  __syncwarp();
  if (i < n) x[i] = a * s[4 * threadIdx.x ^ 4];
}
"""

LAUNCH = ["--kernel", "scale", "--grid", "4", "--block", "32", "--args", "f32=2 f32[128] i32=128"]


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "scale.cu").write_text(SOURCE)
    return str(tmp_path / "scale.cu")


def test_the_command_explains(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([source, *LAUNCH, "-D", "SLIP=0", "--report", "--check"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("forward: nothing found\nreverse: nothing found\nrandom: nothing found\n")
    assert "kernel scale, grid 4x1x1, 32x1x1 threads, block 0" in printed
    assert "    4 | s[4 * threadIdx.x] = i < n + SLIP ? x[i] : 0;" in printed
    assert re.search(
        r"shared write +4 bytes x 32 +1 requests of +4.0 wavefronts \(1.0\)  <-- 4-way bank conflict", printed
    )


def test_the_command_finds_violations(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([source, *LAUNCH[:3], "5", *LAUNCH[4:], "-D", "SLIP=1", "--check"]) == 1
    assert "element 128 of argument 1 (float32, shape (128,)), which has 128" in capsys.readouterr().out


def test_the_command_knows_the_engines_files(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(emulator.__file__).parents[1] / "indexing" / "indexing.cu"
    assert __main__.main([str(file), "--kernel", "scatter_add"]) == 0
    printed = capsys.readouterr().out
    assert "kernel scatter_add, grid" in printed
    assert "\nindexing/indexing.cu\n" in printed
    assert printed.count("\nkernel ") == 1
    assert __main__.main([str(file), "--kernel", "gather"]) == 2
    assert "'gather' is not among the kernels of indexing.cu: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["/nowhere.cu"], "there is no file /nowhere.cu\n"),
        (["FILE"], "is none of the engine's files: say --kernel, --grid, --block and --args\n"),
        (["FILE", *LAUNCH[:-1], "f16=1"], "argument 'f16=1' is neither TYPE[SHAPE] nor TYPE=VALUE, with a type of f32"),
        (["FILE", *LAUNCH[:-1], "i32=x"], "argument 'i32=x': invalid literal"),
        (["FILE", *LAUNCH, "--show", "99"], "--show 99: scale runs in blocks 0 to 3\n"),
        (["FILE", *LAUNCH, "--show", "-1"], "--show -1: scale runs in blocks 0 to 3\n"),
        (["FILE", "--kernel", "shrink", *LAUNCH[2:]], "there is no kernel 'shrink' in"),
    ],
)
def test_the_command_refuses(source: str, changed: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([source if word == "FILE" else word for word in changed] + ["-D", "SLIP=0"]) == 2
    assert message in capsys.readouterr().err


def test_the_command_says_what_is_wrong_with_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        __main__.main(["file.cu", "--grid", "many"])
    assert exit.value.code == 2
    assert capsys.readouterr().err == "argument --grid: invalid size value: 'many'; see --help\n"


# ---- Compilers and caches --------------------------------------------------------------------------------------------


def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = 'extern "C" __global__ void k(int* x) { *x = VALUE; }'
    for value in (1, 2, 1):
        x = zeros(1, dtype="i4")
        RawModule(code, (f"-DVALUE={value}",)).get_function("k")(1, 1, (x,))
        assert x[0] == value
    assert len(list((tmp_path / "minigan" / "emulator").glob("kernel-*.so"))) == 2
    assert not [p for p in (tmp_path / "minigan" / "emulator").iterdir() if p.suffix != ".so"]


def test_compiled_again_when_a_header_has_changed(tmp_path: Path) -> None:
    (tmp_path / "a.cu").write_text('#include "h.cuh"\nextern "C" __global__ void k(int* x) { *x = VALUE; }')
    for value in (1, 2):
        (tmp_path / "h.cuh").write_text(f"#define VALUE {value}\n")
        x = zeros(1, dtype="i4")
        RawModule(path=tmp_path / "a.cu", options=(f"-I{tmp_path}",)).get_function("k")(1, 1, (x,))
        assert x[0] == value


def python(program: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    kept |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | environment
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=kept)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_a_compiler() -> None:
    program = (
        "from minigan.kernels import emulator\n"
        "print(emulator.available())\n"
        "try: emulator.RawModule('').get_function('k')\n"
        "except emulator.EmulatorError as error: print(error)"
    )
    assert python(program, PATH="").splitlines() == [
        "False",
        "the emulator compiles kernels with g++, which is not on the PATH; install it: apt install g++, "
        "dnf install gcc-c++ or conda install gxx",
    ]


def test_a_cache_that_is_removed_meanwhile(tmp_path: Path) -> None:
    program = (
        "import os, shutil, numpy as np\n"
        "from minigan.kernels import emulator\n"
        "def launch(value, removed):\n"
        "    code = f'extern \"C\" __global__ void k(int* x) {{ x[-1] = {value}; }}'\n"
        "    kernel = emulator.RawModule(code).get_function('k')\n"
        "    if removed: shutil.rmtree(os.environ['XDG_CACHE_HOME'])\n"
        "    try: kernel(1, 1, (np.zeros(1, np.int32),))\n"
        "    except emulator.EmulatorError as error: print(str(error).splitlines()[1].strip())\n"
        "with emulator.running(check=True): launch(1, True), launch(2, False)"
    )
    lines = python(program, XDG_CACHE_HOME=str(tmp_path / "cache")).splitlines()
    assert lines == ["kernel.cu:1   written by block (0, 0, 0), thread (0, 0, 0)"] * 2


LONG = """
import os, signal, threading, time
import numpy as np
from minigan.kernels import emulator
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent's setting
signal.alarm(60)
code = '''
extern "C" __global__ void k(volatile int* x, int waits) {
  x[1] = 1;
  do {
    if (waits) __syncthreads();
  } while (x[0] == 0);
}'''
kernel = emulator.RawModule(code).get_function("k")
def launch(x, waits, grid=1):
    kernel(grid, 1, (x, np.int32(waits)))
def started(x):
    while x[1] == 0:
        time.sleep(0.01)
"""


def test_a_child_process_launches_while_its_parent_does() -> None:
    program = f"""{LONG}
x = np.zeros(2, np.int32)
thread = threading.Thread(target=launch, args=(x, 1))
thread.start()
started(x)
if os.fork() == 0:
    signal.alarm(20)
    launch(np.ones(2, np.int32), 1)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
x[0] = 1
thread.join()
"""
    assert python(program) == "7"


def test_interrupts() -> None:
    program = f"""{LONG}
def interrupt(x):
    started(x)
    os.kill(os.getpid(), signal.SIGINT)
def insist(x):
    while True:
        interrupt(x)
        time.sleep(0.05)
for first, waits, grid in ((0, 1, 1), (1, 0, 2**31 - 1)):  # it waits at a barrier; it goes from block to block
    x = np.array([first, 0], np.int32)
    thread = threading.Thread(target=interrupt, args=(x,))
    thread.start()
    try: launch(x, waits, grid)
    except KeyboardInterrupt: print("interrupted")
    thread.join()
launch(np.ones(2, np.int32), 1)
if os.fork() == 0:  # it does neither: the second one ends the process
    signal.alarm(20)
    x = np.zeros(2, np.int32)
    threading.Thread(target=insist, args=(x,), daemon=True).start()
    launch(x, 0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert python(program).splitlines() == ["interrupted", "interrupted", "-2"]


def test_without_a_home(tmp_path: Path) -> None:
    program = "from minigan.kernels import cache; print(cache.folder('emulator'))"
    (tmp_path / "file").touch()
    for environment in ({"HOME": str(tmp_path / "file")}, {"HOME": "", "XDG_CACHE_HOME": "relative"}):
        folder = Path(python(program, **environment))
        assert folder.name.startswith("minigan-emulator-")
        assert not folder.exists()  # the process has cleaned up


def test_other_processors_have_a_slower_switch(tmp_path: Path) -> None:
    """The scheduler with ucontext in place of assembly, which is for x86-64."""
    code = 'extern "C" __global__ void k(int* x) { x[threadIdx.x] = __syncthreads_count(threadIdx.x % 3 == 0); }'
    program = (
        "import numpy as np\n"
        "from minigan.kernels import emulator\n"
        "from minigan.kernels.emulator import build\n"
        "build.RUNTIME = (*build.RUNTIME, '-DEMULATOR_UCONTEXT')\n"
        "x = np.zeros(100, np.int32)\n"
        f"emulator.RawModule({code!r}).get_function('k')(1, 100, (x,))\n"
        "print(set(x.tolist()))"
    )
    assert python(program, XDG_CACHE_HOME=str(tmp_path)) == "{34}"


def test_a_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m minigan.kernels.emulator kernels/linear/linear.cu --report | head -1"
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, shell=True, cwd=root, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("A request is one load or store of a warp.")
    assert not done.stderr
