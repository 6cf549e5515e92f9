// Random numbers: one thread computes one block of Philox, four 32-bit words, and stores what it makes of
// them.
//
// A block is a pure function of key and counter (see random/__init__.py), so threads share nothing and the
// numbers do not depend on how many threads there are, nor on the GPU: thread b of the grid computes block
// counter + b. The counter lies in device memory, low half first: a launch that was recorded in a CUDA graph
// is repeated with the same arguments, and draws what comes next because the memory behind them has changed.
//
//    thread        0            1            2
//    words         w0 w1 w2 w3  w4 w5 w6 w7  ...
//    float         u0 u1 u2 u3  ...             one word each
//    double        u0    u1     u2    u3  ...   two words each
//    normal        z0 z1 z2 z3  ...             Box-Muller on (u0, u1) and (u2, u3); double: on (u0, u1)
//
// Some 130 instructions for 16 bytes, most of them of integers. A thread stores the 16 bytes at once where it
// can (st4): a warp then fills 512 bytes without a gap.

#include "../cuda.cuh"

#define THREADS 256
#define IN_BLOCK (16 / int(sizeof(real)))  // numbers that a block gives: 4 floats or 2 doubles

struct Words {
  uint32 x, y, z, w;
};

// The constants are those of random/reference.py.
__device__ __forceinline__ Words philox_block(uint64 key, const uint64* counter, int b) {
  const uint64 low = counter[0], start = low + b;
  const uint64 high = counter[1] + (start < low);  // the low half wrapped around: carry
  uint32 c0 = uint32(start), c1 = uint32(start >> 32), c2 = uint32(high), c3 = uint32(high >> 32);
  uint32 k0 = uint32(key), k1 = uint32(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint64 a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
    c0 = uint32(b >> 32) ^ c1 ^ k0;
    c1 = uint32(b);
    c2 = uint32(a >> 32) ^ c3 ^ k1;
    c3 = uint32(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// Uniform numbers in [0, 1): the top 24 bits of a word, the top 53 of two. Both conversions are exact.
__device__ __forceinline__ void uniforms(Words words, float* u) {
  const uint32 all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; i++) u[i] = float(all[i] >> 8) * 0x1p-24f;
}

__device__ __forceinline__ void uniforms(Words words, double* u) {
  u[0] = double((words.x | uint64(words.y) << 32) >> 11) * 0x1p-53;
  u[1] = double((words.z | uint64(words.w) << 32) >> 11) * 0x1p-53;
}

__device__ __forceinline__ void sincos_of_pi_times(float x, float* s, float* c) { sincospif(x, s, c); }
__device__ __forceinline__ void sincos_of_pi_times(double x, double* s, double* c) { sincospi(x, s, c); }

// Numbers 4 b .. 4 b + 3 (float) or 2 b, 2 b + 1 (double) of `out`, as far as it goes.
__device__ __forceinline__ void store(float* out, int n, int b, const float* u) {
  const bool aligned = reinterpret_cast<uint64>(out) % 16 == 0;  // not where `out` is a piece of an array
  if (aligned && n - 4 * b >= 4) {
    st4(out + 4 * b, make_float4(u[0], u[1], u[2], u[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (4 * b + i < n) out[4 * b + i] = u[i];
}

// Each store fills every second number; the two meet in the L2 cache, before anything goes to memory.
__device__ __forceinline__ void store(double* out, int n, int b, const double* u) {
  out[2 * b] = u[0];
  if (2 * b + 1 < n) out[2 * b + 1] = u[1];
}

// words (n,)
extern "C" __global__ void __launch_bounds__(THREADS)
    philox(uint64 key, const uint64* counter, int n, uint32* words) {
  const int b = blockIdx.x * THREADS + threadIdx.x;
  if (b > (n - 1) / 4) return;
  const Words block = philox_block(key, counter, b);
  const uint32 all[4] = {block.x, block.y, block.z, block.w};
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (4 * b + i < n) words[4 * b + i] = all[i];
}

// u (n,)
extern "C" __global__ void __launch_bounds__(THREADS)
    uniform(uint64 key, const uint64* counter, int n, real* u) {
  const int b = blockIdx.x * THREADS + threadIdx.x;
  if (b > (n - 1) / IN_BLOCK) return;
  real numbers[IN_BLOCK];
  uniforms(philox_block(key, counter, b), numbers);
  store(u, n, b, numbers);
}

// z (n,). The angle is 2 pi u: sincospi multiplies by pi itself, so no digits are lost on the way to the
// quadrant, and no table of pi's digits, which is what makes sincos slow for large angles, has to be kept in
// local memory.
extern "C" __global__ void __launch_bounds__(THREADS)
    normal(uint64 key, const uint64* counter, int n, real* z) {
  const int b = blockIdx.x * THREADS + threadIdx.x;
  if (b > (n - 1) / IN_BLOCK) return;
  real numbers[IN_BLOCK];
  uniforms(philox_block(key, counter, b), numbers);
#pragma unroll
  for (int i = 0; i < IN_BLOCK; i += 2) {
    const real radius = sqrt(-2 * log(1 - numbers[i]));  // 1 - u is in (0, 1]: its logarithm is finite
    real sine, cosine;
    sincos_of_pi_times(2 * numbers[i + 1], &sine, &cosine);
    numbers[i] = radius * cosine;
    numbers[i + 1] = radius * sine;
  }
  store(z, n, b, numbers);
}

// mask (n,): 0 where u < p, else kept = 1 / (1 - p). One thread an element.
template <typename U>
__device__ __forceinline__ void mask_of(const U* u, U p, real kept, int n, real* mask) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i < n) mask[i] = u[i] >= p ? kept : real(0);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    dropout_mask_of_float(const float* u, float p, real kept, int n, real* mask) {
  mask_of(u, p, kept, n, mask);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    dropout_mask_of_double(const double* u, double p, real kept, int n, real* mask) {
  mask_of(u, p, kept, n, mask);
}
