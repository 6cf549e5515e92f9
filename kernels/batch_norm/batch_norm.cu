// Batch norm of x (n, C): n = N H W pixels, C channels; mean and variance are those of columns.
//
// Threads: as in reduce/reduce.cu, which draws it; a block is `width` channels x `height` rows of threads. A
// thread stays with one channel, so that the numbers of that channel (mean, gamma, ...) are read once into
// registers, and walks down the rows of a strip, `height` at a step. A warp reads 32 channels of one row, 128
// consecutive bytes.
//
// Three ways to a variance:
//   two passes   sum x, then sum (x - mean)^2: accurate, but x is read twice
//   shifted      sum d and sum d^2 of d = x - pivot, var = (sum d^2 - (sum d)^2 / n) / n: one pass, but the
//                subtraction magnifies rounding by 1 + ((mean - pivot) / deviation)^2. With pivot = 0,
//                mean = 1000 and deviation 1 this is 10^6, and nothing is left of a float
//   Welford      a running mean: one pass, accurate, but a division for each element
// Here each strip is shifted by the mean of its own first rows, which is near enough to the strip's mean for
// a factor of about 1. One outlier D among p such rows moves the pivot by D / p, but the deviation is D /
// sqrt(rows) then: the factor is 1 + rows / p^2. (So it takes more than one row: p = 1 would lose all of 1 +
// rows.) Strips are combined, in double, by the law of total variance: the variance within strips plus the
// variance of their means. Both are sums of squares, and nothing cancels.
#include "../cuda.cuh"
#include "../activation/leak.cuh"
#include "../reduce/columns.cuh"

#define PIVOT_ROWS 8  // of each thread, so `height` times as many of the strip

// x (n, C) -> of each strip and channel: its mean, and its sum of squared deviations from that mean, (strips,
// C) each.
extern "C" __global__ void __launch_bounds__(256)
    strip_moments(const real* x, double* means, double* squares, int n, int C, int rows) {
  Column column = my_column(1, n, C, rows);
  x += column.at;
  int count = min(rows, n - (int)blockIdx.y * rows);   // rows of this strip
  int few = min(count, PIVOT_ROWS * (int)blockDim.y);  // those of them that make the pivot
  real v[AHEAD];

  Sum<real> first;
  for (int i = 0; i < PIVOT_ROWS; i += AHEAD) {
    load_ahead(v, x + i * column.step, column.step, column.count - i);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) first.add(v[k]);
  }
  real pivot = column_total(first.value()) / few;

  Sum<real> sum, square;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, x += AHEAD * column.step) {
    load_ahead(v, x, column.step, left, pivot);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      real d = v[k] - pivot;
      sum.add(d);
      square.add(d * d);
    }
  }
  double s = column_total(sum.value()), q = column_total(square.value());
  if (column.inside && threadIdx.y == 0) {
    means[column.result] = pivot + s / count;
    squares[column.result] = q - s * s / count;
  }
}

// The same two (strips, C) -> mean, var (C,). A block takes all strips of its channels; the strips have
// `rows` rows each, the last has what is left of n.
extern "C" __global__ void __launch_bounds__(256)
    combine_moments(const double* means, const double* squares, real* mean, real* var,
                    int strips, int n, int C, int rows) {
  Column column = my_column(1, strips, C, strips);
  long long step = column.step;
  means += column.at, squares += column.at;
  // How many rows this thread's i-th strip has.
  auto length = [=](int i) { return min(rows, n - (int)(threadIdx.y + i * blockDim.y) * rows); };
  double of[AHEAD], sum = 0, within = 0, between = 0;

#pragma unroll 1
  for (int i = 0; i < column.count; i += AHEAD) {
    load_ahead(of, means + i * step, step, column.count - i);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) sum += of[k] * length(i + k);
  }
  double m = column_total(sum) / n;
#pragma unroll 1
  for (int i = 0; i < column.count; i += AHEAD) {
    load_ahead(of, means + i * step, step, column.count - i, m);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) between += (of[k] - m) * (of[k] - m) * length(i + k);
    load_ahead(of, squares + i * step, step, column.count - i);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) within += of[k];
  }
  double v = column_total(within + between) / n;
  if (column.inside && threadIdx.y == 0) {
    mean[column.c] = m;
    var[column.c] = v;
  }
}

// A channel's numbers, in registers.
struct Channel {
  real mean, scale, beta;

  // z = gamma xhat + beta. Forward and backward must agree on its sign, so both round it in the same way: the
  // fused multiply-add is not left to the compiler.
  __device__ __forceinline__ real normalized(real x) const { return fma(x - mean, scale, beta); }
};

__device__ __forceinline__ Channel channel(const real* mean, const real* rstd, const real* gamma,
                                           const real* beta, int c) {
  return {mean[c], gamma[c] * rstd[c], beta[c]};
}

// x (n, C) -> y = leak(gamma (x - mean) rstd + beta). y may be x.
extern "C" __global__ void __launch_bounds__(256)
    apply(const real* x, const real* mean, const real* rstd, const real* gamma, const real* beta, real slope,
          real* y, int n, int C, int rows) {
  Column column = my_column(1, n, C, rows);
  Channel of = channel(mean, rstd, gamma, beta, column.c);
  x += column.at, y += column.at;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, x += AHEAD * column.step, y += AHEAD * column.step) {
    real v[AHEAD];
    load_ahead(v, x, column.step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) v[k] = leak(of.normalized(v[k]), slope);
    store_ahead(v, y, column.step, left);
  }
}

// gy, x (n, C) -> of each strip and channel, with g = gy through the activation: sum g xhat and sum g,
// (strips, C) each.
extern "C" __global__ void __launch_bounds__(256)
    strip_gradients(const real* gy, const real* x, const real* mean, const real* rstd, const real* gamma,
                    const real* beta, real slope, double* scaled, double* plain, int n, int C, int rows) {
  Column column = my_column(1, n, C, rows);
  Channel of = channel(mean, rstd, gamma, beta, column.c);
  long long i = column.at, step = column.step;
  Sum<real> g_d, g_alone;  // rstd, a factor of every xhat, waits for the end
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, i += AHEAD * step) {
    real g[AHEAD], v[AHEAD];
    load_ahead(g, gy + i, step, left);
    load_ahead(v, x + i, step, left, of.mean);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      g[k] = leak_backward(g[k], of.normalized(v[k]), slope);
      g_d.add(g[k] * (v[k] - of.mean));
      g_alone.add(g[k]);
    }
  }
  double s = column_total(g_d.value()), p = column_total(g_alone.value());
  if (column.inside && threadIdx.y == 0) {
    scaled[column.result] = s * rstd[column.c];
    plain[column.result] = p;
  }
}

// The same two (strips, C) -> ggamma, gbeta (C,). A block takes all strips of its channels.
extern "C" __global__ void __launch_bounds__(256)
    add_gradients(const double* scaled, const double* plain, real* ggamma, real* gbeta, int strips, int C) {
  Column column = my_column(1, strips, C, strips);
  long long i = column.at, step = column.step;
  double s = 0, p = 0;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, i += AHEAD * step) {
    double of_scaled[AHEAD], of_plain[AHEAD];
    load_ahead(of_scaled, scaled + i, step, left);
    load_ahead(of_plain, plain + i, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) s += of_scaled[k], p += of_plain[k];
  }
  s = column_total(s), p = column_total(p);
  if (column.inside && threadIdx.y == 0) {
    ggamma[column.c] = s;
    gbeta[column.c] = p;
  }
}

// gx = gamma rstd (g - gbeta / n - xhat ggamma / n), with one_nth = 1 / n. gx may be gy or x.
extern "C" __global__ void __launch_bounds__(256)
    input_gradient(const real* gy, const real* x, const real* mean, const real* rstd, const real* gamma,
                   const real* beta, const real* ggamma, const real* gbeta, real slope, real one_nth,
                   real* gx, int n, int C, int rows) {
  Column column = my_column(1, n, C, rows);
  int c = column.c;
  Channel of = channel(mean, rstd, gamma, beta, c);
  real offset = gbeta[c] * one_nth, tilt = ggamma[c] * one_nth * rstd[c];
  long long i = column.at, step = column.step;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, i += AHEAD * step) {
    real g[AHEAD], v[AHEAD];
    load_ahead(g, gy + i, step, left);
    load_ahead(v, x + i, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      g[k] = leak_backward(g[k], of.normalized(v[k]), slope);
      g[k] = of.scale * (g[k] - offset - (v[k] - of.mean) * tilt);
    }
    store_ahead(g, gx + i, step, left);
  }
}
