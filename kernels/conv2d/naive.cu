// The convolution trio as it is defined (__init__.py): one thread computes one number of the result, with one
// loop for each index that its sum runs over. Read this first, then conv2d.cu. The trio in float64, and what
// the tests hold conv2d.cu against.
//
//   y[n, i, j, o] = sum over u, v, c of  x[n, SH i + u - PH, SW j + v - PW, c]  w[u, v, c, o]
//
// and x from y and w, and w from x and y, over the same triples of numbers. Thread t of the grid has number t
// of the result as it lies in memory. Its last index is a channel: the 32 threads of a warp have neighbouring
// ones.

#include "../cuda.cuh"
#include "sizes.cuh"

extern "C" __global__ void __launch_bounds__(256) conv2d_naive(
    const real* x, const real* w, real* y, Sizes s) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= s.N * s.OH * s.OW * s.O) return;
  int o = t % s.O, j = t / s.O % s.OW, i = t / s.O / s.OW % s.OH, n = t / s.O / s.OW / s.OH;

  real sum = 0;
  for (int u = 0; u < s.KH; ++u)
    for (int v = 0; v < s.KW; ++v) {
      int h = s.SH * i + u - s.PH, column = s.SW * j + v - s.PW;
      if (h < 0 || h >= s.H || column < 0 || column >= s.W) continue;  // padding: zeros
      for (int c = 0; c < s.C; ++c)
        sum += x[((n * s.H + h) * s.W + column) * s.C + c] * w[((u * s.KW + v) * s.C + c) * s.O + o];
    }
  y[t] = sum;
}

// A pixel (h, column) of x gets from each tap (u, v) whose h = SH i + u - PH has a whole i, and likewise
// across.
extern "C" __global__ void __launch_bounds__(256) conv_transpose2d_naive(
    const real* y, const real* w, real* x, Sizes s) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= s.N * s.H * s.W * s.C) return;
  int c = t % s.C, column = t / s.C % s.W, h = t / s.C / s.W % s.H, n = t / s.C / s.W / s.H;

  real sum = 0;
  for (int u = 0; u < s.KH; ++u)
    for (int v = 0; v < s.KW; ++v) {
      int below = h + s.PH - u, right = column + s.PW - v;
      if (below < 0 || right < 0 || below % s.SH || right % s.SW) continue;
      int i = below / s.SH, j = right / s.SW;
      if (i >= s.OH || j >= s.OW) continue;
      for (int o = 0; o < s.O; ++o)
        sum += y[((n * s.OH + i) * s.OW + j) * s.O + o] * w[((u * s.KW + v) * s.C + c) * s.O + o];
    }
  x[t] = sum;
}

extern "C" __global__ void __launch_bounds__(256) conv2d_weight_naive(
    const real* x, const real* y, real* w, Sizes s) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= s.KH * s.KW * s.C * s.O) return;
  int o = t % s.O, c = t / s.O % s.C, v = t / s.O / s.C % s.KW, u = t / s.O / s.C / s.KW;

  real sum = 0;
  for (int n = 0; n < s.N; ++n)
    for (int i = 0; i < s.OH; ++i)
      for (int j = 0; j < s.OW; ++j) {
        int h = s.SH * i + u - s.PH, column = s.SW * j + v - s.PW;
        if (h < 0 || h >= s.H || column < 0 || column >= s.W) continue;
        sum += x[((n * s.H + h) * s.W + column) * s.C + c] * y[((n * s.OH + i) * s.OW + j) * s.O + o];
      }
  w[t] = sum;
}
