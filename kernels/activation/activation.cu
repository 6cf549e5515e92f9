// Activations, and their derivatives: each reads its inputs once, and writes its output once. Such a kernel
// is as fast as memory, if it keeps enough of it under way: a thread moves 16 bytes at a time (VECTOR 4, four
// floats in one 128-bit load), so a warp moves 512 consecutive bytes by one instruction. Arrays that begin
// elsewhere than at a multiple of 16 bytes, and doubles, go one element a thread (VECTOR 1): a warp's 32
// still lie side by side, it only takes more threads.
//
// What is moved, in numbers of 4 bytes for each of x: forward, and bias_act, read x and write y, 2; backward, and
// bias_act_backward, read gy and x (or y) and write gx, 3. The bias, and its gradient, are next to nothing.
//
// The elementwise kernels are one line each, a function of a number that is handed to `map`. The two with a
// bias, whose threads stay with VECTOR channels, are at the end.
#include "../cuda.cuh"
#include "leak.cuh"
#include "../reduce/columns.cuh"

#ifndef VECTOR
#define VECTOR 1
#endif

// y[i] = f(x[i]), i < n; thread t of all has the elements VECTOR t, VECTOR t + 1, ... y may be x, and there
// is no __restrict__: an element is read by the thread that overwrites it, before it does.
template <typename F>
__device__ __forceinline__ void map(const real* x, real* y, int n, F f) {
  uint32 i = (blockIdx.x * blockDim.x + threadIdx.x) * VECTOR, end = min((uint32)n, i + VECTOR);
#if VECTOR == 4
  if (i + 4 == end) {
    float4 v = ld4(x + i);
    st4(y + i, make_float4(f(v.x), f(v.y), f(v.z), f(v.w)));
    return;
  }
#endif
#pragma unroll 1
  for (; i < end; i++) y[i] = f(x[i]);  // the end of the array, if VECTOR does not divide n
}

// gx[i] = f(gy[i], x[i]).
template <typename F>
__device__ __forceinline__ void map(const real* gy, const real* x, real* gx, int n, F f) {
  uint32 i = (blockIdx.x * blockDim.x + threadIdx.x) * VECTOR, end = min((uint32)n, i + VECTOR);
#if VECTOR == 4
  if (i + 4 == end) {
    float4 g = ld4(gy + i), v = ld4(x + i);
    st4(gx + i, make_float4(f(g.x, v.x), f(g.y, v.y), f(g.z, v.z), f(g.w, v.w)));
    return;
  }
#endif
#pragma unroll 1
  for (; i < end; i++) gx[i] = f(gy[i], x[i]);
}

extern "C" __global__ void __launch_bounds__(256) leaky_relu(const real* x, real* y, int n, real slope) {
  map(x, y, n, [=](real v) { return leak(v, slope); });
}

extern "C" __global__ void __launch_bounds__(256)
    leaky_relu_backward(const real* gy, const real* x, real* gx, int n, real slope) {
  map(gy, x, gx, n, [=](real g, real v) { return leak_backward(g, v, slope); });
}

extern "C" __global__ void __launch_bounds__(256) elu(const real* x, real* y, int n, real alpha) {
  map(x, y, n, [=](real v) { return v > 0 ? v : alpha * expm1(v); });
}

extern "C" __global__ void __launch_bounds__(256)
    elu_backward(const real* gy, const real* x, real* gx, int n, real alpha) {
  map(gy, x, gx, n, [=](real g, real v) { return v > 0 ? g : alpha * exp(v) * g; });
}

extern "C" __global__ void __launch_bounds__(256) tanh_forward(const real* x, real* y, int n) {
  map(x, y, n, [](real v) { return tanh(v); });
}

extern "C" __global__ void __launch_bounds__(256)
    tanh_backward(const real* gy, const real* y, real* gx, int n) {
  map(gy, y, gx, n, [](real g, real t) { return g * (1 - t * t); });
}

// By whichever of e^x and e^-x does not overflow.
extern "C" __global__ void __launch_bounds__(256) sigmoid(const real* x, real* y, int n) {
  map(x, y, n, [](real v) {
    real e = exp(-fabs(v));
    return (v < 0 ? e : 1) / (1 + e);
  });
}

extern "C" __global__ void __launch_bounds__(256)
    sigmoid_backward(const real* gy, const real* y, real* gx, int n) {
  map(gy, y, gx, n, [](real g, real s) { return g * s * (1 - s); });
}

// log(1 + e^x), of which max(x, 0) is taken out before it can overflow.
extern "C" __global__ void __launch_bounds__(256) softplus(const real* x, real* y, int n) {
  map(x, y, n, [](real v) { return (v > 0 ? v : 0) + log1p(exp(-fabs(v))); });
}

// x (n, C), b (C,) -> leak(x + b). A thread stays with VECTOR neighbouring channels: it reads b once, and never
// divides to find c. The walk down the columns is that of reduce/reduce.cu. y may be x.
extern "C" __global__ void __launch_bounds__(256)
    bias_act(const real* x, const real* b, real slope, real* y, int n, int C, int rows) {
  Column column = my_column<VECTOR>(1, n, C, rows);
  real bias[VECTOR];
  load_lanes(bias, b + column.c);
  x += column.at, y += column.at;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, x += AHEAD * column.step, y += AHEAD * column.step) {
    real v[AHEAD][VECTOR];
    load_ahead(v, x, column.step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) v[k][j] = leak(v[k][j] + bias[j], slope);
    store_ahead(v, y, column.step, left);
  }
}

// gy, y (n, C) -> gx (n, C), and of each strip of rows and channel the sum of gx, (strips, C): reduce.cu adds
// these up.
extern "C" __global__ void __launch_bounds__(256)
    bias_act_backward(const real* gy, const real* y, real slope, real* gx, double* partial,
                      int n, int C, int rows) {
  Column column = my_column<VECTOR>(1, n, C, rows);
  long long i = column.at, step = column.step;
  Sum<real> sum[VECTOR];
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, i += AHEAD * step) {
    real g[AHEAD][VECTOR], v[AHEAD][VECTOR];
    load_ahead(g, gy + i, step, left);
    load_ahead(v, y + i, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) {
        g[k][j] = leak_backward(g[k][j], v[k][j], slope);
        sum[j].add(g[k][j]);  // where there was nothing to load, 0
      }
    store_ahead(g, gx + i, step, left);
  }
  double total[VECTOR];
#pragma unroll
  for (int j = 0; j < VECTOR; j++) total[j] = sum[j].value();
  column_totals(total);
  if (column.inside && threadIdx.y == 0) {
#pragma unroll
    for (int j = 0; j < VECTOR; j++) partial[column.result + j] = total[j];
  }
}
