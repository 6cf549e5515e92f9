// Batch norm of x (n, C): n = N H W pixels, C channels; mean and variance are those of columns.
//
// What is moved, in numbers of 4 bytes for each of x; mean, variance and the sums of strips are next to nothing:
//
//   forward    strip_moments    read x                      1
//              apply            read x, write y             2    together 3
//   backward   strip_gradients  read gy, x                  2
//              input_gradient   read gy, x, write gx        3    together 5
//
// Nothing is read twice within a kernel. (Behind a convolution that leaves the moments of its own tiles, the
// first line is gone.) None of these can be saved as long as the mean is not known before the last of x is.
//
// Threads: as in reduce/reduce.cu, which draws it; a block is `width` x `height` threads. A thread stays with
// VECTOR neighbouring channels, so that the numbers of these channels (mean, gamma, ...) are read once into
// registers, and walks down the rows of a strip, `height` at a step, AHEAD of them under way at a time. With
// VECTOR 4 an access is 16 bytes, and a warp moves 512 consecutive ones: 128 channels of a row, or 64 of two
// rows, which lie behind each other. VECTOR 1 is for doubles, and where 4 does not divide C.
//
// Three ways to a variance:
//   two passes   sum x, then sum (x - mean)^2: accurate, but x is read twice
//   shifted      sum d and sum d^2 of d = x - pivot, var = (sum d^2 - (sum d)^2 / n) / n: one pass, but the
//                subtraction magnifies rounding by 1 + ((mean - pivot) / deviation)^2. With pivot = 0,
//                mean = 1000 and deviation 1 this is 10^6, and nothing is left of a float
//   Welford      a running mean: one pass, accurate, but a division for each element
// Here each strip is shifted by the mean of its own first rows, p = AHEAD `height` of them, which is near enough
// to the strip's mean for a factor of about 1. One outlier D among these moves the pivot by D / p, but the
// deviation is D / sqrt(rows) then: the factor is 1 + rows / p^2. (So it takes more than one row: p = 1 would
// lose all of 1 + rows.) These rows stay in registers, and are not read a second time. Strips are combined, in
// double, by the law of total variance: the variance within strips plus the variance of their means. Both are
// sums of squares, and nothing cancels.
#include "../cuda.cuh"
#include "../activation/leak.cuh"
#include "../reduce/columns.cuh"

// x (n, C) -> of each strip and channel: its mean, and its sum of squared deviations from that mean, (strips,
// C) each.
extern "C" __global__ void __launch_bounds__(256)
    strip_moments(const real* x, double* means, double* squares, int n, int C, int rows) {
  Column column = my_column<VECTOR>(1, n, C, rows);
  x += column.at;
  int count = min(rows, n - (int)blockIdx.y * rows);  // rows of this strip
  int few = min(count, AHEAD * (int)blockDim.y);      // those of them that make the pivot
  int left = column.count;
  real v[AHEAD][VECTOR], pivot[VECTOR];
  double first[VECTOR];

  load_ahead(v, x, column.step, left);
#pragma unroll
  for (int j = 0; j < VECTOR; j++) {
    Sum<real> sum;
#pragma unroll
    for (int k = 0; k < AHEAD; k++) sum.add(v[k][j]);
    first[j] = sum.value();
  }
  column_totals(first);
#pragma unroll
  for (int j = 0; j < VECTOR; j++) pivot[j] = first[j] / few;
#pragma unroll
  for (int k = 0; k < AHEAD; k++)
#pragma unroll
    for (int j = 0; j < VECTOR; j++)
      if (k >= left) v[k][j] = pivot[j];  // adds nothing below

  Sum<real> sum[VECTOR], square[VECTOR];
#pragma unroll 1
  while (true) {
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) {
        real d = v[k][j] - pivot[j];
        sum[j].add(d);
        square[j].add(d * d);
      }
    left -= AHEAD, x += AHEAD * column.step;
    if (left <= 0) break;
    load_ahead(v, x, column.step, left, pivot);
  }
  double s[VECTOR], q[VECTOR];
#pragma unroll
  for (int j = 0; j < VECTOR; j++) s[j] = sum[j].value(), q[j] = square[j].value();
  column_totals(s);
  column_totals(q);
  if (column.inside && threadIdx.y == 0) {  // lanes write 32 bytes apart, but only once a strip
#pragma unroll
    for (int j = 0; j < VECTOR; j++) {
      means[column.result + j] = pivot[j] + s[j] / count;
      squares[column.result + j] = q[j] - s[j] * s[j] / count;
    }
  }
}

// The same two (strips, C) -> mean, var (C,). A block takes all strips of its channels. Strips come in groups of
// `per_group`, and each group is of as many of the n rows: its strips have `rows` rows each, the last of them
// what is left. (The groups are phases of a transposed convolution, which computes each by itself.)
extern "C" __global__ void __launch_bounds__(256)
    combine_moments(const double* means, const double* squares, real* mean, real* var,
                    int strips, int per_group, int n, int C, int rows) {
  Column column = my_column<1>(1, strips, C, strips);
  long long step = column.step;
  means += column.at, squares += column.at;
  int of_group = n / (strips / per_group);
  // How many rows this thread's i-th strip has; beyond its last one no sum is changed by the answer.
  auto length = [=](int i) {
    int strip = threadIdx.y + i * blockDim.y;
    return min(rows, of_group - strip % per_group * rows);
  };
  double of[AHEAD][1], sum = 0, within = 0, between = 0;

#pragma unroll 1
  for (int i = 0; i < column.count; i += AHEAD) {
    load_ahead(of, means + i * step, step, column.count - i);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) sum += of[k][0] * length(i + k);
  }
  double m[1] = {column_total(sum) / n};
#pragma unroll 1
  for (int i = 0; i < column.count; i += AHEAD) {
    load_ahead(of, means + i * step, step, column.count - i, m);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) between += (of[k][0] - m[0]) * (of[k][0] - m[0]) * length(i + k);
    load_ahead(of, squares + i * step, step, column.count - i);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) within += of[k][0];
  }
  double v = column_total(within + between) / n;
  if (column.inside && threadIdx.y == 0) {
    mean[column.c] = m[0];
    var[column.c] = v;
  }
}

// var (C,) -> y = 1 / sqrt(var + eps).
extern "C" __global__ void __launch_bounds__(256) reciprocal_deviation(const real* var, real eps, real* y, int C) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c < C) y[c] = 1 / sqrt(var[c] + eps);
}

// Running mean and var (C,) -> new ones, a share `momentum` nearer to the batch's: one launch in place of seven.
// new_mean may be mean, and new_var var.
extern "C" __global__ void __launch_bounds__(256)
    running_moments(const real* mean, const real* var, const real* of_mean, const real* of_var, real momentum,
                    real unbiased, real* new_mean, real* new_var, int C) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= C) return;
  new_mean[c] = mean[c] + momentum * (of_mean[c] - mean[c]);
  new_var[c] = var[c] + momentum * (unbiased * of_var[c] - var[c]);
}

// The numbers of a thread's channels, in registers.
struct Channels {
  real mean[VECTOR], scale[VECTOR], beta[VECTOR];

  // z = gamma xhat + beta of channel j. Forward and backward must agree on its sign, so both round it in the
  // same way: the fused multiply-add is not left to the compiler.
  __device__ __forceinline__ real normalized(real x, int j) const { return fma(x - mean[j], scale[j], beta[j]); }
};

__device__ __forceinline__ Channels channels(const real* mean, const real* rstd, const real* gamma,
                                             const real* beta, int c) {
  Channels of;
  real inverse[VECTOR];
  load_lanes(of.mean, mean + c), load_lanes(of.scale, gamma + c), load_lanes(of.beta, beta + c);
  load_lanes(inverse, rstd + c);
#pragma unroll
  for (int j = 0; j < VECTOR; j++) of.scale[j] *= inverse[j];
  return of;
}

// x (n, C) -> y = leak(gamma (x - mean) rstd + beta). y may be x.
extern "C" __global__ void __launch_bounds__(256)
    apply(const real* x, const real* mean, const real* rstd, const real* gamma, const real* beta, real slope,
          real* y, int n, int C, int rows) {
  Column column = my_column<VECTOR>(1, n, C, rows);
  Channels of = channels(mean, rstd, gamma, beta, column.c);
  x += column.at, y += column.at;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, x += AHEAD * column.step, y += AHEAD * column.step) {
    real v[AHEAD][VECTOR];
    load_ahead(v, x, column.step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) v[k][j] = leak(of.normalized(v[k][j], j), slope);
    store_ahead(v, y, column.step, left);
  }
}

// Rows of gy and x that are under way in strip_gradients: with 4 of each, and the sums of 4 channels, a thread would
// take 80 registers, and three blocks fill a multiprocessor where now four do.
#define PAIRS (VECTOR == 4 ? AHEAD / 2 : AHEAD)

// gy, x (n, C) -> of each strip and channel, with g = gy through the activation: sum g xhat and sum g,
// (strips, C) each.
extern "C" __global__ void __launch_bounds__(256)
    strip_gradients(const real* gy, const real* x, const real* mean, const real* rstd, const real* gamma,
                    const real* beta, real slope, double* scaled, double* plain, int n, int C, int rows) {
  Column column = my_column<VECTOR>(1, n, C, rows);
  Channels of = channels(mean, rstd, gamma, beta, column.c);
  long long i = column.at, step = column.step;
  Sum<real> g_d[VECTOR], g_alone[VECTOR];  // rstd, a factor of every xhat, waits for the end
#pragma unroll 1
  for (int left = column.count; left > 0; left -= PAIRS, i += PAIRS * step) {
    real g[PAIRS][VECTOR], v[PAIRS][VECTOR];
    load_ahead(g, gy + i, step, left);
    load_ahead(v, x + i, step, left, of.mean);
#pragma unroll
    for (int k = 0; k < PAIRS; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) {
        real through = leak_backward(g[k][j], of.normalized(v[k][j], j), slope);
        g_d[j].add(through * (v[k][j] - of.mean[j]));
        g_alone[j].add(through);
      }
  }
  double s[VECTOR], p[VECTOR];
#pragma unroll
  for (int j = 0; j < VECTOR; j++) s[j] = g_d[j].value(), p[j] = g_alone[j].value();
  column_totals(s);
  column_totals(p);
  if (column.inside && threadIdx.y == 0) {
#pragma unroll
    for (int j = 0; j < VECTOR; j++) {
      scaled[column.result + j] = s[j] * rstd[column.c + j];
      plain[column.result + j] = p[j];
    }
  }
}

// The same two (strips, C) -> ggamma, gbeta (C,). A block takes all strips of its channels.
extern "C" __global__ void __launch_bounds__(256)
    add_gradients(const double* scaled, const double* plain, real* ggamma, real* gbeta, int strips, int C) {
  Column column = my_column<1>(1, strips, C, strips);
  long long i = column.at, step = column.step;
  double of[2] = {};
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, i += AHEAD * step) {
    double of_scaled[AHEAD][1], of_plain[AHEAD][1];
    load_ahead(of_scaled, scaled + i, step, left);
    load_ahead(of_plain, plain + i, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) of[0] += of_scaled[k][0], of[1] += of_plain[k][0];
  }
  column_totals(of);
  if (column.inside && threadIdx.y == 0) {
    ggamma[column.c] = of[0];
    gbeta[column.c] = of[1];
  }
}

// gx = gamma rstd (g - gbeta / n - xhat ggamma / n), with one_nth = 1 / n. gx may be gy or x.
extern "C" __global__ void __launch_bounds__(256, 4)
    input_gradient(const real* gy, const real* x, const real* mean, const real* rstd, const real* gamma,
                   const real* beta, const real* ggamma, const real* gbeta, real slope, real one_nth,
                   real* gx, int n, int C, int rows) {
  Column column = my_column<VECTOR>(1, n, C, rows);
  int c = column.c;
  Channels of = channels(mean, rstd, gamma, beta, c);
  real offset[VECTOR], tilt[VECTOR], inverse[VECTOR];
  load_lanes(offset, gbeta + c), load_lanes(tilt, ggamma + c), load_lanes(inverse, rstd + c);
#pragma unroll
  for (int j = 0; j < VECTOR; j++) offset[j] *= one_nth, tilt[j] *= one_nth * inverse[j];
  long long i = column.at, step = column.step;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, i += AHEAD * step) {
    real g[AHEAD][VECTOR], v[AHEAD][VECTOR];
    load_ahead(g, gy + i, step, left);
    load_ahead(v, x + i, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) {
        real through = leak_backward(g[k][j], of.normalized(v[k][j], j), slope);
        g[k][j] = of.scale[j] * (through - offset[j] - (v[k][j] - of.mean[j]) * tilt[j]);
      }
    store_ahead(g, gx + i, step, left);
  }
}
