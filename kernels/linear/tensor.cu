// The matrix product on tensor cores, in tf32 or bf16 with float32 sums. Read linear.cu first: the tiles are the same.
//
//   y[i, j] = sum over k of  a[i, k] b[k, j]        a (I, K), b (K, J), y (I, J)
//
// What changes:
//
//   multiply   A warp multiplies a 16 x 8 by an 8 x 8 matrix in one instruction, mma: 1024 products, where FFMA does
//              32. Its operands lie spread over the warp's registers (../mma.cuh draws how).
//   load       Then shared memory is what is short: a number brought to registers must meet many others. A warp
//              computes WM x WN = 64 x 64 numbers of y in 128 registers a thread: of each 8 terms it reads 64 + 64
//              lines of 32 bytes for 32 mma, 128 bytes each. ldmatrix reads four 8 x 16 bytes at once.
//   copy       cp.async copies from global to shared memory without a stop in registers, and goes on by itself:
//              STAGES tiles are under way or in use, so that a tile has the time of STAGES - 1 others to arrive.
//   swizzle    Copies of 16 bytes cannot transpose or pad single numbers. Pieces of 16 bytes trade places instead, so
//              that reads find their numbers in different banks (mma_tiles.cuh).
//
// Three kernels, by where a's and b's neighbours in memory are. They are the three products of a linear layer:
// y = x w, gx = gy w^T, gw = x^T gy, and so those of a convolution whose window is the whole image.
//
// Grid: (tiles of rows, tiles of columns, splits) as in linear.cu, which adds the splits up. Macros: BM BN BK WM WN
// STAGES VEC BF16 THREADS, from cuda_tensor.py; dynamic shared memory: STAGES (BM + BN) BK floats.

#include "../cuda.cuh"
#include "../mma.cuh"
#include "mma_tiles.cuh"

// Begins to copy a tile of a matrix, from row (column) `first` of `count` and term k of `last` on, with `step` numbers
// from line to line; zeros beyond the edges.
template <int extent, bool along_k>
__device__ __forceinline__ void fetch(
    float* tile, const float* matrix, int step, int first, int count, int k, int last) {
#pragma unroll
  for (int i = 0; i < LOADS(extent); ++i) {
    Place p = my_place<extent, along_k>(i);
    int at = first + p.at, term = k + p.k;
    const float* from = matrix + (along_k ? at * step + term : term * step + at);
    bring<extent, along_k>(tile, p, from, at < count && term < last);
  }
}

template <bool a_along_k, bool b_along_k>
__device__ __forceinline__ void product(
    const float* a, const float* b, float* y, int I, int J, int K, int chunk) {
  int i0 = blockIdx.x * BM, j0 = blockIdx.y * BN;
  int first = blockIdx.z * chunk, last = min(K, first + chunk);
  int a_step = a_along_k ? K : I, b_step = b_along_k ? K : J;
  Sums acc = {};
  multiply_tiles<a_along_k, b_along_k>((last - first + BK - 1) / BK, acc, [=](int tile, float* a_tile, float* b_tile) {
    int k = first + tile * BK;
    fetch<BM, a_along_k>(a_tile, a, a_step, i0, I, k, last);
    fetch<BN, b_along_k>(b_tile, b, b_step, j0, J, k, last);
  });
  y += blockIdx.z * I * J;
  for_each_piece(acc, [=](int row, int column, Piece v) {
    if (i0 + row < I && j0 + column < J) store_piece(y + (i0 + row) * J + j0 + column, v);
  });
}

// y (splits, I, J) = a (I, K) b (K, J)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) matmul_mma(
    const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int I, int J, int K, int chunk) {
  product<true, false>(a, b, y, I, J, K, chunk);
}

// y (splits, I, J) = a (I, K) b^T, b (J, K)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) matmul_mma_right_transposed(
    const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int I, int J, int K, int chunk) {
  product<true, true>(a, b, y, I, J, K, chunk);
}

// y (splits, I, J) = a^T b (K, J), a (K, I)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) matmul_mma_left_transposed(
    const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int I, int J, int K, int chunk) {
  product<false, false>(a, b, y, I, J, K, chunk);
}
