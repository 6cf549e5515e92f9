// The index kernels that an array module does not have: adding at repeated places, in two ways, and max
// pooling's index.

#include "../cuda.cuh"

#define THREADS 256

typedef long long int64;

// Adds g[i] to x[targets[i]], i = 0 .. n-1, where several i may have the same target; x is 0 before.
//
// Threads that add to one element must not do it at once, and atomic additions come in any order: sums of
// floats would differ from run to run. So the host sorts. targets are ascending, order[j] says which element
// of g came to place j, and equal targets lie side by side, in the order in which they were:
//
//    index    7 2 7 2 2        targets  2 2 2 7 7
//    g        a b c d e        order    1 3 4 0 2        x[2] = b + d + e,  x[7] = a + c
//                              thread   0 . . 3 .
//
// Thread j works if a run of equal targets begins at j, and adds the whole run from left to right: the order,
// and so every bit of the sum, is that of a loop over g. Runs that are very long make a few threads work
// long; in embeddings and pooling they are short. Neighbouring threads write neighbouring x and, where the
// index was ascending, read neighbouring g.
extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_add(const real* g, const int64* targets, const int64* order, int n, real* x) {
  const int first = blockIdx.x * THREADS + threadIdx.x;
  if (first >= n) return;
  const int64 target = targets[first];
  if (first > 0 && targets[first - 1] == target) return;  // some thread before this one has this run
  real total = 0;
  for (int j = first; j < n && targets[j] == target; j++) total += g[order[j]];
  x[target] = total;
}

// The same for rows of a table, where table and index are small, without a sort: x (V, D) is 0 but for row j of
// g (n, D), which is added to x[rows[j]], j = 0 .. n-1; a negative index counts from the end. One warp has 32
// columns of one row of x. It reads 32 indices at once, and asks by a ballot which of them are its row's:
//
//    rows     7 2 7 2 2 ...     of row 2: hits 0 1 0 1 1 ...     each lane adds g[1], g[3], g[4] of its column
//
// So the order of a sum is that of a loop over g, as above, and x is written whole: nobody has to clear it.
// Indices are read by all warps, the same 256 bytes by each, mostly from the cache; of g a warp reads only what it
// adds, 32 columns side by side.
extern "C" __global__ void __launch_bounds__(THREADS)
    scatter_rows(const real* g, const int64* rows, int n, int V, int D, real* x) {
  const int warp = (blockIdx.x * THREADS + threadIdx.x) / 32, lane = threadIdx.x % 32;
  const int pieces = (D + 31) / 32, row = warp / pieces, column = warp % pieces * 32 + lane;
  if (row >= V) return;  // all lanes of the warp
  real total = 0;
  for (int first = 0; first < n; first += 32) {
    const int64 target = first + lane < n ? rows[first + lane] : V;  // V: no row at all
    uint32 hits = __ballot_sync(0xffffffffu, target == row || target + V == row);
    for (; hits; hits &= hits - 1) {
      const int j = first + __ffs(hits) - 1;
      if (column < D) total += g[j * D + column];
    }
  }
  if (column < D) x[row * D + column] = total;
}

// For each window of x (N, H, W, C) the flat index of its largest element: index (N, OH, OW, C). One thread
// an output, neighbouring threads are neighbouring channels, so that a warp reads 32 channels of a pixel at
// once.
//
// The first of equals wins, in row order, and a NaN wins over everything. Padding counts as the nearest pixel,
// which lies in the window, too, as long as the padding is smaller than the window: so it changes nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d_index(const real* x, int H, int W, int C, int OH, int OW, int KH, int KW, int SH, int SW,
                     int PH, int PW, int outputs, int64* index) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= outputs) return;
  const int c = i % C, ow = i / C % OW, oh = i / C / OW % OH, n = i / C / OW / OH;
  real best = 0;
  int64 where = -1;  // no element yet
  for (int u = 0; u < KH; u++)
    for (int v = 0; v < KW; v++) {
      const int h = oh * SH - PH + u, w = ow * SW - PW + v;
      const int near_h = min(max(h, 0), H - 1), near_w = min(max(w, 0), W - 1);
      const int64 place = ((int64(n) * H + near_h) * W + near_w) * C + c;
      const real value = x[place];
      const bool best_is_nan = best != best, value_is_nan = value != value;
      if (where < 0 || value > best || (value_is_nan && !best_is_nan)) best = value, where = place;
    }
  index[i] = where;
}
