// Losses of a batch's scores, and the penalty on the norm of a gradient for each sample; __init__.py has the
// formulas. Scores are few, and what counts is that each of these is one launch. Gradients by samples are as
// long as images, and what counts is that they are read once, 16 bytes at a time:
//
//   row_squares           read g (N, M)             1 number of 4 bytes for each of g
//   row_squares_backward  read g, write gg          2
//   interpolate           read a and b, write y     3
//
// Rows are walked as in reduce/reduce.cu with inner = 1: a block is (1, height, depth) threads, of which
// threadIdx.y walk down one row, VECTOR neighbours at a step, and threadIdx.z counts rows, if they are short.
//
//     M = 4096, VECTOR 4: block (1, 256, 1)         M = 2: block (1, 2, 64)
//
//           m ->                                      m ->
//        N  0 0 0 0 1 1 1 1 ... 255 | 0 0 0 0 ...  N  0 1    the threadIdx.y that reads a number
//
// Sums are compensated (Sum) within a thread, and doubles between threads; a single number of the host, such as
// 1 / n, comes as a double where a sum is multiplied by it.
#include "../cuda.cuh"
#include "../reduce/columns.cuh"

// t sp(-l) + (1 - t) sp(l) with sp(l) = max(l, 0) + log1p(e^-|l|): nothing cancels, and nothing overflows.
__device__ __forceinline__ real cross_entropy(real l, real t) {
  real weight = l > 0 ? 1 - t : t;
  return (weight == 0 ? 0 : weight * fabs(l)) + log1p(exp(-fabs(l)));  // 0 times infinity would be NaN
}

// l (n), y of each strip: the mean's share of its losses. Targets are t (n) or, if not `each`, `target`.
template <typename Out>
__device__ __forceinline__ void cross_entropy_of(const real* l, const real* t, int each, real target,
                                                 double one_nth, Out* y, int n, int rows) {
  Column column = my_column<1>(1, n, 1, rows);
  l += column.at, t += column.at;
  Sum<real> sum;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, l += AHEAD * column.step, t += AHEAD * column.step) {
    real score[AHEAD][1], wanted[AHEAD][1], alike[1] = {target};
    load_ahead(score, l, column.step, left);
    load_ahead(wanted, t, column.step, each ? left : 0, alike);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
      if (k < left) sum.add(cross_entropy(score[k][0], wanted[k][0]));
  }
  double total = column_total(sum.value());
  if (threadIdx.y == 0) y[column.result] = total * one_nth;
}

// l (n) -> y (), in one strip.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_all(const real* l, const real* t, int each, real target, double one_nth, real* y,
                      int n, int rows) {
  cross_entropy_of(l, t, each, target, one_nth, y, n, rows);
}

// l (n) -> partial (strips), whose sum is the mean: reduce.cu adds these up.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_strips(const real* l, const real* t, int each, real target, double one_nth, double* partial,
                         int n, int rows) {
  cross_entropy_of(l, t, each, target, one_nth, partial, n, rows);
}

// gl[i] = g / n (s(l) - t), with one_nth = 1 / n. Both of e^l and e^-l go through the one that does not overflow,
// and s(l) - t is written so that of l = 20 and t = 1 the small -e^-20 is left, not a rounded 0. gl may be l.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy_backward(const real* g, const real* l, const real* t, int each, real target, real one_nth,
                           real* gl, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  real score = l[i], wanted = each ? t[i] : target, e = exp(-fabs(score));
  real of_real = score < 0 ? 1 : e, of_fake = score < 0 ? e : 1;  // times 1 / (1 + e): s(-l) and s(l)
  gl[i] = g[0] * one_nth * (((1 - wanted) * of_fake - wanted * of_real) / (1 + e));
}

// The sum of x (n): one block, (1, height, 1) threads.
__device__ __forceinline__ double block_sum(const real* x, int n) {
  Sum<real> sum;
  for (int i = threadIdx.y; i < n; i += blockDim.y) sum.add(x[i]);
  return column_total(sum.value());
}

// a (n), b (m) -> y () = mean(a) - mean(b). One block: a batch's scores are few.
extern "C" __global__ void __launch_bounds__(256)
    mean_difference(const real* a, const real* b, double one_nth, double one_mth, real* y, int n, int m) {
  double of_a = block_sum(a, n) * one_nth, of_b = block_sum(b, m) * one_mth;
  if (threadIdx.y == 0) y[0] = of_a - of_b;
}

// g () -> ga (n) = g / n and gb (m) = -g / m, by as many threads as the longer one has numbers.
extern "C" __global__ void __launch_bounds__(256)
    mean_difference_backward(const real* g, real one_nth, real one_mth, real* ga, real* gb, int n, int m) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) ga[i] = g[0] * one_nth;
  if (i < m) gb[i] = -g[0] * one_mth;
}

// x (N, M) -> y (N): the sum of squares of each row.
extern "C" __global__ void __launch_bounds__(256) row_squares(const real* x, real* y, int N, int M) {
  Column column = my_column<1>(N, M / VECTOR, 1, M / VECTOR);
  long long step = column.step * VECTOR;
  x += column.at * VECTOR;
  Sum<real> sum;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, x += AHEAD * step) {
    real v[AHEAD][VECTOR];
    load_ahead(v, x, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) sum.add(v[k][j] * v[k][j]);
  }
  double total = column_total(sum.value());
  if (column.inside && threadIdx.y == 0) y[column.result] = total;
}

// Which of the N rows is this thread's; the last one for threads beyond.
__device__ __forceinline__ int my_row(int N) { return min(N - 1, (int)(blockIdx.x * blockDim.z + threadIdx.z)); }

// g (N), x (N, M) -> y = 2 g x, in strips of `steps` vectors. y may be x. (The pointers walk: with one index for
// both, the compiler takes the last of the wide stores apart, as the test of the instructions found.)
extern "C" __global__ void __launch_bounds__(256)
    row_squares_backward(const real* g, const real* x, real* y, int N, int M, int steps) {
  Column column = my_column<1>(N, M / VECTOR, 1, steps);
  long long step = column.step * VECTOR;
  real factor = 2 * g[my_row(N)];
  x += column.at * VECTOR, y += column.at * VECTOR;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, x += AHEAD * step, y += AHEAD * step) {
    real v[AHEAD][VECTOR];
    load_ahead(v, x, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) v[k][j] *= factor;
    store_ahead(v, y, step, left);
  }
}

// e (N), a, b (N, M) -> y = e a + (1 - e) b, in strips of `steps` vectors. y may be a or b.
extern "C" __global__ void __launch_bounds__(256)
    interpolate(const real* e, const real* a, const real* b, real* y, int N, int M, int steps) {
  Column column = my_column<1>(N, M / VECTOR, 1, steps);
  long long step = column.step * VECTOR;
  real share = e[my_row(N)];
  a += column.at * VECTOR, b += column.at * VECTOR, y += column.at * VECTOR;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, a += AHEAD * step, b += AHEAD * step, y += AHEAD * step) {
    real v[AHEAD][VECTOR], w[AHEAD][VECTOR];
    load_ahead(v, a, step, left);
    load_ahead(w, b, step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
#pragma unroll
      for (int j = 0; j < VECTOR; j++) v[k][j] = share * v[k][j] + (1 - share) * w[k][j];
    store_ahead(v, y, step, left);
  }
}

// How far a norm is above 1; one-sided, below 1 it is as good as 1.
__device__ __forceinline__ real excess_of(real norm, int one_sided) {
  real excess = norm - 1;
  return one_sided && excess < 0 ? 0 : excess;
}

// squares (N) -> penalty () = factor sum (r - 1)^2 and mean () = sum r / N, with r = sqrt(squares + eps) and
// factor = weight / N. One block.
extern "C" __global__ void __launch_bounds__(256)
    slope_penalty(const real* squares, real eps, int one_sided, double factor, double one_nth, real* penalty,
                  real* mean, int N) {
  Sum<real> of_excess, of_norms;
  for (int i = threadIdx.y; i < N; i += blockDim.y) {
    real norm = sqrt(squares[i] + eps), excess = excess_of(norm, one_sided);
    of_excess.add(excess * excess);
    of_norms.add(norm);
  }
  double of[2] = {of_excess.value(), of_norms.value()};
  column_totals(of);
  if (threadIdx.y == 0) {
    penalty[0] = of[0] * factor;
    mean[0] = of[1] * one_nth;
  }
}

// g (), squares (N) -> y (N) = g factor (r - 1) / r.
extern "C" __global__ void __launch_bounds__(256)
    slope_penalty_backward(const real* g, const real* squares, real eps, int one_sided, real factor, real* y,
                           int N) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= N) return;
  real norm = sqrt(squares[i] + eps);
  y[i] = g[0] * factor * excess_of(norm, one_sided) / norm;
}
