// The matrix product by tiles in shared memory, float32. naive.cu has the definition.
//
//   y[i, j] = sum over k of  a[i, k] b[k, j]        a (I, K), b (K, J), y (I, J)
//
// The naive product reads two numbers for each multiplication. A block of threads that computes a tile of BM
// x BN numbers of y reads BM + BN numbers for each k and multiplies BM BN times:
//
//                        BN
//                   b +------+--- J    1. All threads bring BK columns of a and BK rows of b into shared
//                  BK |######|            memory, VEC neighbours a load: `fetch`, `store`.
//                     |      |         2. They wait for each other.
//     a    BK         |      |         3. Each multiplies TM rows by TN columns of the two tiles: for each k,
//     +----+---- K    K                   TM + TN reads of shared memory for TM TN multiplications; their
//  BM |####|        y +------+            sums stay in registers (`multiply_tiles`). Meanwhile the numbers
//     |####|          |  ::  | BM         of the next BK are on their way from memory to registers.
//     +----+          +------+         4. They wait again, since 1. overwrites what others may be reading.
//     I                  ^ one thread's TM x TN
//
// The grid is (batches x tiles of rows, tiles of columns, splits). Where y has few tiles and its sums are
// long, most of a GPU would stand idle: then each of `splits` blocks adds up a part of the sums of the same
// tile, into an array of its own, and add_splits adds these, always in the same order. (Atomic additions
// would come in another order in every run, and round to other bits.)
//
// Macros: BM BN BK TM TN VEC THREADS, from cuda.py. The pieces that conv2d.cu uses, too, are in tiles.cuh.

#include "../cuda.cuh"
#include "tiles.cuh"

// How a thread walks through a BK x extent tile of a matrix: `at` is the row (or column) of its first vector,
// k the term, and each next vector is at_step and k_step further.
struct Walk {
  int at, k, at_step, k_step;
};

// Along the axis of the matrix whose step in memory is 1, the threads of a warp bring neighbours.
template <int extent>
__device__ __forceinline__ Walk walk(bool along_k) {
  if (along_k) {
    Place p = place_along_k(0);
    return {p.at, p.k, THREADS / (BK / VEC), 0};
  }
  Place p = place_across_k<extent>(0);
  return {p.at, p.k, 0, THREADS / (extent / VEC)};
}

// The thread's vectors of a tile, from row (or column) `first` of `count` and term k of `last`; zeros beyond
// the edges, which add nothing. step, k_step: from row to row and from term to term in memory.
template <int extent>
__device__ __forceinline__ void fetch(
    Vector (&vectors)[LOADS(extent)], const float* matrix, Walk w, int first, int count, int step, int k,
    int last, int k_step) {
  int at = first + w.at, term = k + w.k;
  const float* p = matrix + at * step + term * k_step;
#pragma unroll
  for (int i = 0; i < LOADS(extent); ++i) {
    vectors[i] = at < count && term < last ? load_vector(p) : Vector{};
    at += w.at_step, term += w.k_step, p += w.at_step * step + w.k_step * k_step;
  }
}

template <int extent>
__device__ __forceinline__ void store(
    float (&tile)[BK][extent + PAD], const Vector (&vectors)[LOADS(extent)], bool along_k) {
  if (along_k)
    store_along_k<extent>(tile, vectors);
  else
    store_across_k<extent>(tile, vectors);
}

// a (batches, I, K), b (batches, K, J), y (splits, batches, I, J): split s has the terms from s `chunk` on.
// The steps are those of naive.cu; of a's row and column step one is 1, and of b's.
extern "C" __global__ void __launch_bounds__(THREADS, 4) matmul_tiled(
    const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y,
    int batches, int I, int J, int K, int a_batch, int a_row, int a_column,
    int b_batch, int b_row, int b_column, int chunk) {
  __shared__ __align__(16) float a_tile[BK][BM + PAD];
  __shared__ __align__(16) float b_tile[BK][BN + PAD];

  int tiles = (I + BM - 1) / BM, batch = blockIdx.x / tiles;
  int i0 = blockIdx.x % tiles * BM, j0 = blockIdx.y * BN;
  int first = blockIdx.z * chunk, last = min(K, first + chunk);
  a += batch * a_batch;
  b += batch * b_batch;

  Vector a_next[LOADS(BM)], b_next[LOADS(BN)];
  float acc[TM][TN] = {};
  bool a_along_k = a_column == 1, b_along_k = b_row == 1;
  Walk a_walk = walk<BM>(a_along_k), b_walk = walk<BN>(b_along_k);
  fetch<BM>(a_next, a, a_walk, i0, I, a_row, first, last, a_column);
  fetch<BN>(b_next, b, b_walk, j0, J, b_column, first, last, b_row);
  for (int k = first; k < last; k += BK) {
    store<BM>(a_tile, a_next, a_along_k);
    store<BN>(b_tile, b_next, b_along_k);
    __syncthreads();  // the tiles are complete
    fetch<BM>(a_next, a, a_walk, i0, I, a_row, k + BK, last, a_column);
    fetch<BN>(b_next, b, b_walk, j0, J, b_column, k + BK, last, b_row);
    multiply_tiles(a_tile, b_tile, acc);
    __syncthreads();  // nobody reads them any more: they may be overwritten
  }

  y += (blockIdx.z * batches + batch) * I * J;
  int row = i0 + thread_row(), column = j0 + thread_column();
#pragma unroll
  for (int i = 0; i < TM; ++i)
    if (row + i < I) store_row(y + (row + i) * J, column, J, acc[i]);
}

// y[t] = parts[0, t] + parts[1, t] + ...; parts (splits, size).
extern "C" __global__ void __launch_bounds__(256) add_splits(
    const float* parts, float* y, int splits, int size) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= size) return;
  float sum = 0;
  for (int split = 0; split < splits; ++split) sum += parts[split * size + t];
  y[t] = sum;
}
