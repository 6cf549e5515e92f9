// What the text of a kernel sees of CUDA, when it is compiled by g++.
//
// NVRTC knows these names by itself; here they are written down. A launch runs every CUDA thread as a fiber
// (runtime.cpp): all threads of a block take turns on one thread of the CPU, and a turn ends at a barrier. So most of
// CUDA's words have simple meanings: an atomic operation is a plain one, and a __shared__ array is a static one.

#pragma once
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS  // C's math.h alone: libstdc++'s takes longer to read than a kernel to compile
#include <float.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <type_traits>
#include <utility>

#include "runtime.h"

#define EMULATED static inline __attribute__((always_inline, unused))
#define UNCHECKED __attribute__((no_sanitize("thread", "alignment"), noinline, unused))

// ---- Qualifiers ------------------------------------------------------------------------------------------------

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __shared__ static  // ends up in .bss, which is filled with NaN before every block
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// `extern __shared__ float s[];`, which module.py rewrites: the one name for all dynamic shared memory.
#define EMULATOR_DYNAMIC_SHARED(declaration) \
  extern __attribute__((visibility("default"))) declaration __asm__("emulator_dynamic_shared")

// ---- Where a thread is -----------------------------------------------------------------------------------------

static const uint3& threadIdx = emulator::state.thread;
static const uint3& blockIdx = emulator::state.block;
static const dim3& blockDim = emulator::state.block_size;
static const dim3& gridDim = emulator::state.grid_size;
constexpr int warpSize = 32;

// ---- Vectors ---------------------------------------------------------------------------------------------------

#define EMULATOR_VECTORS(T, name)                                                    \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                 \
  struct name##3 { T x, y, z; };                                                     \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  EMULATED name##2 make_##name##2(T x, T y) { return {x, y}; }                       \
  EMULATED name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }               \
  EMULATED name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(long long, longlong)
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
EMULATED uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
EMULATED uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
EMULATED uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// One access of 16 bytes. g++ takes a float4 apart into four floats before it tells the checker of the access, so that
// the report would count four; one of its own vectors stays whole.
typedef float emulator_vector __attribute__((vector_size(16)));

EMULATED float4 ld4(const float* p, emulator::Site site = emulator::Site::here()) {
  if (reinterpret_cast<uintptr_t>(p) % 16) emulator::misaligned(p, 16, "ld4", site);
  emulator_vector v = *reinterpret_cast<const emulator_vector*>(p);
  return {v[0], v[1], v[2], v[3]};
}

EMULATED void st4(float* p, float4 v, emulator::Site site = emulator::Site::here()) {
  if (reinterpret_cast<uintptr_t>(p) % 16) emulator::misaligned(p, 16, "st4", site);
  *reinterpret_cast<emulator_vector*>(p) = emulator_vector{v.x, v.y, v.z, v.w};
}

template <class T>
EMULATED T __ldg(const T* p) {
  return *p;
}

// ---- Barriers --------------------------------------------------------------------------------------------------

EMULATED void __syncthreads(emulator::Site site = emulator::Site::here()) {
  emulator::barrier(emulator::Vote::none, 0, site);
}
EMULATED int __syncthreads_count(int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::barrier(emulator::Vote::count, predicate, site);
}
EMULATED int __syncthreads_and(int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::barrier(emulator::Vote::all, predicate, site);
}
EMULATED int __syncthreads_or(int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::barrier(emulator::Vote::any, predicate, site);
}

// Memory is one and the same for all fibers: what is written is seen.
EMULATED void __threadfence_block() {}
EMULATED void __threadfence() {}
EMULATED void __threadfence_system() {}

// ---- Warps -----------------------------------------------------------------------------------------------------

EMULATED void __syncwarp(unsigned mask = 0xffffffffu, emulator::Site site = emulator::Site::here()) {
  emulator::collective(emulator::Collective::sync, mask, nullptr, 0, nullptr, 0, site);
}

// Every lane brings `value` and takes that of lane `source`.
template <class T>
EMULATED T emulator_shuffle(unsigned mask, T value, int source, emulator::Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move values of 4 or 8 bytes");
  uint32_t in[3] = {uint32_t(source)}, out[2];
  memcpy(in + 1, &value, sizeof(T));
  emulator::collective(emulator::Collective::shuffle, mask, in, 3, out, 2, site);
  memcpy(&value, out, sizeof(T));
  return value;
}
EMULATED int emulator_lane() { return emulator::state.linear_thread % 32; }

// `width` cuts the warp into segments; a lane whose source is in another segment keeps its own value.
template <class T>
EMULATED T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                       emulator::Site site = emulator::Site::here()) {
  int segment = emulator_lane() & ~(width - 1);
  return emulator_shuffle(mask, value, segment | (source & (width - 1)), site);
}
template <class T>
EMULATED T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                          emulator::Site site = emulator::Site::here()) {
  int lane = emulator_lane(), source = lane - int(delta);
  return emulator_shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, site);
}
template <class T>
EMULATED T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                            emulator::Site site = emulator::Site::here()) {
  int lane = emulator_lane(), source = lane + int(delta);
  return emulator_shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, site);
}
template <class T>
EMULATED T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                           emulator::Site site = emulator::Site::here()) {
  int lane = emulator_lane(), source = lane ^ lanes;
  return emulator_shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, site);
}

EMULATED unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  uint32_t in = predicate != 0, out;
  emulator::collective(emulator::Collective::ballot, mask, &in, 1, &out, 1, site);
  return out;
}
EMULATED int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
EMULATED int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return __ballot_sync(mask, !predicate, site) == 0;
}

// ---- Tensor cores: the wrappers that a .cu file otherwise writes in PTX, #ifndef MINIGAN_EMULATOR -------------------
// The registers of a lane hold the fragments that the PTX manual draws under "mma.m16n8k8" and "mma.m16n8k16".

// D += A B for A (16, 8), B (8, 8), D (16, 8). Inputs are floats, of which tf32 drops the last 13 bits.
EMULATED void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                               emulator::Site site = emulator::Site::here()) {
  uint32_t in[10], out[4];
  memcpy(in, a, 16), memcpy(in + 4, b, 8), memcpy(in + 6, d, 16);
  emulator::collective(emulator::Collective::mma_tf32, 0xffffffffu, in, 10, out, 4, site);
  memcpy(d, out, 16);
}

// D += A B for A (16, 16), B (16, 8), D (16, 8). Inputs are pairs of bfloat16, the lower column (A) or row (B) first.
EMULATED void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                emulator::Site site = emulator::Site::here()) {
  uint32_t in[10], out[4];
  memcpy(in, a, 16), memcpy(in + 4, b, 8), memcpy(in + 6, d, 16);
  emulator::collective(emulator::Collective::mma_bf16, 0xffffffffu, in, 10, out, 4, site);
  memcpy(d, out, 16);
}

// Two floats as bfloat16, rounded to the nearest, ties to even; `low` in the lower half.
EMULATED unsigned emulator_bf16(unsigned bits) {
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // NaN
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
EMULATED unsigned pack_bf16(unsigned low, unsigned high) { return emulator_bf16(high) << 16 | emulator_bf16(low); }

// ldmatrix.x4: four 8x8 matrices of 16-bit numbers. Lane 8 i + j points at row j of matrix i, 16 bytes in shared
// memory. Word i of lane 4 r + c becomes elements 2 c and 2 c + 1 of row r (.trans: of column r) of matrix i.
template <bool transposed>
EMULATED void emulator_ldmatrix(unsigned (&words)[4], const void* row, emulator::Site site) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulator::misaligned(row, 16, "ldmatrix", site);
  emulator_vector v = *static_cast<const emulator_vector*>(row);
  uint32_t in[4];
  memcpy(in, &v, 16);
  emulator::collective(transposed ? emulator::Collective::ldmatrix_transposed : emulator::Collective::ldmatrix,
                       0xffffffffu, in, 4, words, 4, site);
}
EMULATED void ldmatrix_x4(unsigned (&words)[4], const void* row, emulator::Site site = emulator::Site::here()) {
  emulator_ldmatrix<false>(words, row, site);
}
EMULATED void ldmatrix_x4_trans(unsigned (&words)[4], const void* row, emulator::Site site = emulator::Site::here()) {
  emulator_ldmatrix<true>(words, row, site);
}

// ---- cp.async: from global to shared memory, past the registers -------------------------------------------------
// The bytes arrive at cp_async_wait; until then they are NaN. `valid` bytes are copied, the rest becomes zero.

template <int bytes>
UNCHECKED static void emulator_copy(void* to, const void* from, int valid, emulator::Site site) {
  emulator::copy_async(to, from, bytes, valid, __builtin_return_address(0), site);
}
template <int bytes>
EMULATED void cp_async(void* to, const void* from, int valid = bytes, emulator::Site site = emulator::Site::here()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulator_copy<bytes>(to, from, valid, site);
}
EMULATED void cp_async_commit() { emulator::commit_async(); }

// Waits for all groups of this thread but the `groups` last committed ones. Other threads need a barrier as well.
template <int groups>
EMULATED void cp_async_wait() {
  emulator::wait_async(groups);
}

// ---- Atomics: nobody else runs between the read and the write ---------------------------------------------------

template <emulator::Kind kind = emulator::Kind::atomic, class T, class Update>
UNCHECKED static T emulator_atomic(T* p, Update update) {
#ifdef MINIGAN_EMULATOR_CHECK
  emulator::check_access(p, sizeof(T), kind, __builtin_return_address(0));
#endif
  T old = *p;
  *p = update(old);
  return old;
}
// The second parameter takes any number that converts, as CUDA's overloads do.
template <class T>
using emulator_value = typename std::enable_if<true, T>::type;

#define EMULATOR_ATOMIC(name, result)                              \
  template <class T>                                               \
  EMULATED T name(T* p, emulator_value<T> v) {                     \
    return emulator_atomic(p, [v](T old) -> T { return result; }); \
  }
EMULATOR_ATOMIC(atomicAdd, old + v)
EMULATOR_ATOMIC(atomicSub, old - v)
EMULATOR_ATOMIC(atomicMax, old < v ? v : old)
EMULATOR_ATOMIC(atomicMin, v < old ? v : old)
EMULATOR_ATOMIC(atomicAnd, old & v)
EMULATOR_ATOMIC(atomicOr, old | v)
EMULATOR_ATOMIC(atomicXor, old ^ v)
EMULATOR_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, old == 0 || old > v ? v : old - 1)
template <class T>
EMULATED T atomicExch(T* p, emulator_value<T> v) {
  return emulator_atomic<emulator::Kind::exchange>(p, [v](T) -> T { return v; });
}
template <class T>
EMULATED T atomicCAS(T* p, emulator_value<T> expected, emulator_value<T> v) {
  return emulator_atomic(p, [=](T old) -> T { return old == expected ? v : old; });
}

// ---- Mathematics: C has the names for double and those that end in f; CUDA also has overloads for float -------------

#define EMULATOR_UNARY(name) EMULATED float name(float x) { return name##f(x); }
EMULATOR_UNARY(exp) EMULATOR_UNARY(exp2) EMULATOR_UNARY(expm1) EMULATOR_UNARY(log) EMULATOR_UNARY(log2)
EMULATOR_UNARY(log10) EMULATOR_UNARY(log1p) EMULATOR_UNARY(sqrt) EMULATOR_UNARY(cbrt) EMULATOR_UNARY(sin)
EMULATOR_UNARY(cos) EMULATOR_UNARY(tan) EMULATOR_UNARY(asin) EMULATOR_UNARY(acos) EMULATOR_UNARY(atan)
EMULATOR_UNARY(sinh) EMULATOR_UNARY(cosh) EMULATOR_UNARY(tanh) EMULATOR_UNARY(erf) EMULATOR_UNARY(erfc)
EMULATOR_UNARY(floor) EMULATOR_UNARY(ceil) EMULATOR_UNARY(round) EMULATOR_UNARY(trunc) EMULATOR_UNARY(rint)
EMULATOR_UNARY(fabs) EMULATOR_UNARY(lgamma) EMULATOR_UNARY(tgamma)
EMULATED float pow(float x, float y) { return powf(x, y); }
EMULATED float atan2(float y, float x) { return atan2f(y, x); }
EMULATED float hypot(float x, float y) { return hypotf(x, y); }
EMULATED float fmod(float x, float y) { return fmodf(x, y); }
EMULATED float fma(float x, float y, float z) { return fmaf(x, y, z); }
EMULATED float copysign(float x, float y) { return copysignf(x, y); }
EMULATED float ldexp(float x, int e) { return ldexpf(x, e); }
EMULATED float fmin(float x, float y) { return fminf(x, y); }
EMULATED float fmax(float x, float y) { return fmaxf(x, y); }
EMULATED float abs(float x) { return fabsf(x); }
EMULATED double abs(double x) { return fabs(x); }
EMULATED int abs(int x) { return x < 0 ? -x : x; }
EMULATED long long abs(long long x) { return x < 0 ? -x : x; }

// Of floating point numbers min and max are fmin and fmax: a NaN loses against a number.
template <class A, class B, class T = decltype(true ? A() : B())>
EMULATED T min(A a, B b) {
  if constexpr (std::is_floating_point_v<T>) return fmin(T(a), T(b));
  else return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B, class T = decltype(true ? A() : B())>
EMULATED T max(A a, B b) {
  if constexpr (std::is_floating_point_v<T>) return fmax(T(a), T(b));
  else return T(a) < T(b) ? T(b) : T(a);
}

// Macros, since newer C libraries declare these names as well.
EMULATED double emulator_sinpi(double x) { return sin(M_PI * fmod(x, 2.0)); }
EMULATED double emulator_cospi(double x) { return cos(M_PI * fmod(x, 2.0)); }
EMULATED float emulator_sinpi(float x) { return float(emulator_sinpi(double(x))); }
EMULATED float emulator_cospi(float x) { return float(emulator_cospi(double(x))); }
#define sinpi(x) emulator_sinpi(x)
#define cospi(x) emulator_cospi(x)
#define sinpif(x) emulator_sinpi(float(x))
#define cospif(x) emulator_cospi(float(x))
#define rsqrt(x) (1 / sqrt(x))
#define rsqrtf(x) (1 / sqrtf(x))
EMULATED void sincos(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
EMULATED void sincospi(double x, double* s, double* c) { *s = sinpi(x), *c = cospi(x); }
EMULATED void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
EMULATED void sincospi(float x, float* s, float* c) { sincospif(x, s, c); }
EMULATED float normcdff(float x) { return 0.5f * erfcf(-0.70710678f * x); }

// The fast, rough intrinsics are the exact functions. Some are macros since glibc declares their names for itself.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __exp10f(x) powf(10.0f, x)
#define __sincosf(x, s, c) sincosf(x, s, c)
EMULATED float __fdividef(float x, float y) { return x / y; }
EMULATED float __frcp_rn(float x) { return 1 / x; }
EMULATED float __fsqrt_rn(float x) { return sqrtf(x); }
EMULATED float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
EMULATED float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
EMULATED double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
EMULATED float __fadd_rn(float x, float y) { return x + y; }
EMULATED float __fsub_rn(float x, float y) { return x - y; }
EMULATED float __fmul_rn(float x, float y) { return x * y; }
EMULATED float __fdiv_rn(float x, float y) { return x / y; }
EMULATED double __dadd_rn(double x, double y) { return x + y; }
EMULATED double __dmul_rn(double x, double y) { return x * y; }
EMULATED float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

// ---- Bits ------------------------------------------------------------------------------------------------------

template <class To, class From>
EMULATED To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
EMULATED int __float_as_int(float x) { return emulator_bits<int>(x); }
EMULATED unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
EMULATED float __int_as_float(int x) { return emulator_bits<float>(x); }
EMULATED float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
EMULATED long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
EMULATED double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
EMULATED float __int2float_rn(int x) { return float(x); }
EMULATED float __uint2float_rn(unsigned x) { return float(x); }
EMULATED int __float2int_rn(float x) { return int(rintf(x)); }
EMULATED int __float2int_rz(float x) { return int(x); }
EMULATED int __float2int_rd(float x) { return int(floorf(x)); }
EMULATED double __uint2double_rn(unsigned x) { return double(x); }
EMULATED int __mulhi(int x, int y) { return int((long long)x * y >> 32); }
EMULATED unsigned __umulhi(unsigned x, unsigned y) { return unsigned((unsigned long long)x * y >> 32); }
EMULATED unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)((unsigned __int128)x * y >> 64);
}
EMULATED int __popc(unsigned x) { return __builtin_popcount(x); }
EMULATED int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMULATED int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
EMULATED int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
EMULATED int __ffs(int x) { return __builtin_ffs(x); }
EMULATED int __ffsll(long long x) { return __builtin_ffsll(x); }
EMULATED unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1) << (31 - bit);
  return reversed;
}
EMULATED unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= unsigned(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
  return result;
}
EMULATED unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((unsigned long long)high << 32 | low) << (shift & 31) >> 32);
}
EMULATED unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((unsigned long long)high << 32 | low) >> (shift & 31));
}

// ---- Launching ---------------------------------------------------------------------------------------------------
// As cuLaunchKernel has it: one pointer to each argument's value. No glue is written by hand for any kernel.

struct EmulatorParameter {
  int bytes;
  char type;     // 'f' floating point, 'i' integer, 'p' pointer, 's' anything else, by value
  char pointee;  // for pointers: 'f', 'i', or 's' for anything else
  bool writes;   // a pointer to what is not const
  int pointee_bytes;
};

template <class T>
constexpr char emulator_type() {
  return std::is_floating_point_v<T> ? 'f' : std::is_integral_v<T> ? 'i' : std::is_pointer_v<T> ? 'p' : 's';
}
template <class T>
constexpr EmulatorParameter emulator_parameter() {
  using Pointee = std::remove_pointer_t<T>;
  if constexpr (!std::is_pointer_v<T>) return {sizeof(T), emulator_type<T>(), 's', false, 0};
  else if constexpr (std::is_void_v<Pointee>) return {sizeof(T), 'p', 's', !std::is_const_v<Pointee>, 0};
  else return {sizeof(T), 'p', emulator_type<std::remove_cv_t<Pointee>>(), !std::is_const_v<Pointee>, sizeof(Pointee)};
}

template <class... Parameters, size_t... I>
UNCHECKED static void emulator_apply(void (*kernel)(Parameters...), void** values, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<Parameters>*>(values[I])...);
}
template <class... Parameters>
UNCHECKED static void emulator_call(void (*kernel)(Parameters...), void** values) {
  emulator_apply(kernel, values, std::index_sequence_for<Parameters...>());
}
template <class... Parameters>
UNCHECKED static int emulator_signature(void (*)(Parameters...), const EmulatorParameter** parameters) {
  static constexpr EmulatorParameter table[] = {emulator_parameter<std::remove_cv_t<Parameters>>()..., {}};
  *parameters = table;
  return sizeof...(Parameters);
}

#define EMULATOR_EXPORT __attribute__((visibility("default")))
#define EMULATOR_FIRST(first, ...) first
#define EMULATOR_KERNEL(symbol, bounds, ...)                                                                   \
  extern "C" EMULATOR_EXPORT UNCHECKED void emulator_run_##symbol(void** values) {                             \
    emulator_call(__VA_ARGS__, values);                                                                        \
  }                                                                                                            \
  extern "C" EMULATOR_EXPORT UNCHECKED int emulator_signature_##symbol(const EmulatorParameter** parameters) { \
    return emulator_signature(__VA_ARGS__, parameters);                                                        \
  }                                                                                                            \
  extern "C" EMULATOR_EXPORT int emulator_threads_##symbol() { return EMULATOR_FIRST bounds; }

// The image in memory: from its first byte to its last; static shared arrays are in .bss, at the end.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], __bss_start[], _end[];
extern "C" EMULATOR_EXPORT UNCHECKED void emulator_image(char** first, char** shared, char** end) {
  *first = __ehdr_start, *shared = __bss_start, *end = _end;
}
