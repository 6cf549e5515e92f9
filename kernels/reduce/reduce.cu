// Sums, and logsumexp, over one axis of x (outer, n, inner), C-contiguous: the n elements inner apart.
//
// Every reduction has this shape once neighbouring axes are merged (reduce/cuda.py): inner = 1 sums rows,
// outer = 1 columns, and both = 1 everything. One mapping of threads serves them all, because only the
// block's shape changes:
//
//     block (width, height, depth), 256 threads at most
//       threadIdx.x   `width` neighbours of inner, each the column of one thread
//       threadIdx.y   `height` threads to a column, each of which takes every height-th element of it
//       threadIdx.z   `depth` of outer
//
//     the threadIdx.y that reads an element:
//
//       inner = 64: block (32, 8, 1)          inner = 1, n = 10000: block (1, 256, 1)
//
//            c ->                               n ->
//         n  0 0 0 0 ... 0  | next              0 1 2 3 ... 31 | 32 ... 63 | ... 255 | 0 1 2 ...
//         |  1 1 1 1 ... 1  | block             one warp         the next
//         v  ...            | of
//            7 7 7 7 ... 7  | threads
//            0 0 0 0 ... 0  |
//
// In both a warp reads 128 consecutive bytes at a time: 4 sectors of 32 bytes, none of them in vain. (Threads of
// batch norm and of biases have `lanes` neighbouring columns each: then c counts four channels, and a warp
// reads 512.) The sums of threads that share a column are then added up in shared memory (column_total).
//
// A long axis is cut into strips, so that there are blocks for the whole GPU: blockIdx.y sums `rows`
// elements, and a second kernel adds up the strips. Atomics would save that kernel, but add in an order that
// changes from run to run.
//
// A thread's own sum is compensated (Sum), the few sums that threads and strips end with are added in double.
// So the result is the exact sum, rounded once, but for a few of double's last places.
#include "../cuda.cuh"
#include "columns.cuh"

template <typename In, typename Out>
__device__ __forceinline__ void sum_columns(const In* x, Out* y, int outer, int n, int inner, int rows) {
  Column column = my_column<1>(outer, n, inner, rows);
  x += column.at;
  Sum<In> sum;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, x += AHEAD * column.step) {
    In v[AHEAD][1];
    load_ahead(v, x, column.step, left);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) sum.add(v[k][0]);
  }
  double total = column_total(sum.value());
  if (column.inside && threadIdx.y == 0) y[column.result] = total;
}

// x (outer, n, inner) -> y (outer, inner), in one strip.
extern "C" __global__ void __launch_bounds__(256)
    sum_all(const real* __restrict__ x, real* __restrict__ y, int outer, int n, int inner, int rows) {
  sum_columns(x, y, outer, n, inner, rows);
}

// x (outer, n, inner) -> partial (outer, strips, inner).
extern "C" __global__ void __launch_bounds__(256)
    sum_strips(const real* __restrict__ x, double* __restrict__ partial,
               int outer, int n, int inner, int rows) {
  sum_columns(x, partial, outer, n, inner, rows);
}

// partial (outer, strips, inner) -> y (outer, inner), in one strip of its own.
extern "C" __global__ void __launch_bounds__(256)
    add_strips(const double* __restrict__ partial, real* __restrict__ y,
               int outer, int n, int inner, int rows) {
  sum_columns(partial, y, outer, n, inner, rows);
}

// The largest of what threads of one column bring, for each of them; column_total says how.
__device__ __forceinline__ real column_max(real v) {
  __shared__ real parts[256];
  int stride = blockDim.x, t = (threadIdx.z * blockDim.y + threadIdx.y) * stride + threadIdx.x;
  parts[t] = v;
  for (int half = blockDim.y / 2; half; half /= 2) {
    __syncthreads();  // the upper half is complete
    if (threadIdx.y < half) parts[t] = fmax(parts[t], parts[t + half * stride]);
  }
  __syncthreads();  // the maximum is there
  return parts[t - threadIdx.y * stride];
}

// x (outer, n, inner) -> log(sum(exp(x))) (outer, inner), in one strip. The largest element is taken out
// first, so that exp cannot overflow: log(sum(exp(x - m))) + m. The second reading of x mostly comes from the
// cache.
extern "C" __global__ void __launch_bounds__(256)
    logsumexp(const real* __restrict__ x, real* __restrict__ y, int outer, int n, int inner, int rows) {
  const real infinity = 1 / (real)0;
  Column column = my_column<1>(outer, n, inner, rows);
  x += column.at;
  long long past = 0;  // where in the column
  real v[AHEAD][1], nothing[1] = {-infinity}, largest = -infinity;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, past += AHEAD * column.step) {
    load_ahead(v, x + past, column.step, left, nothing);
#pragma unroll
    for (int k = 0; k < AHEAD; k++) largest = fmax(largest, v[k][0]);  // passes over NaN, as exp below does not
  }
  largest = column_max(largest);
  real shift = largest - largest == 0 ? largest : 0;  // inf - inf would be NaN: an infinite maximum stays in
  Sum<real> sum;
  past = 0;
#pragma unroll 1
  for (int left = column.count; left > 0; left -= AHEAD, past += AHEAD * column.step) {
    load_ahead(v, x + past, column.step, left, nothing);  // exp(-infinity) is 0
#pragma unroll
    for (int k = 0; k < AHEAD; k++) sum.add(exp(v[k][0] - shift));
  }
  double total = column_total(sum.value());
  if (column.inside && threadIdx.y == 0) y[column.result] = log((real)total) + shift;  // log(0) is -inf
}
