// The matrix product as it is defined: one thread computes one number of y. Read this first, then linear.cu.
//
//   y[i, j] = sum over k of  a[i, k] b[k, j]
//
// Thread t of the grid has j = t mod J: the 32 threads of a warp read neighbours of b, and the same number of
// a. Each number of a is read J times in all and each of b I times, from memory or from a cache, for one
// multiplication each. The product in float64, and what the tests hold linear.cu against.

#include "../cuda.cuh"

// a (batches, I, K), b (batches, K, J), y (batches, I, J). The steps are those from batch to batch, from row
// to row and from column to column in memory; 0 from batch to batch where all batches share a matrix.
extern "C" __global__ void __launch_bounds__(256) matmul_naive(
    const real* a, const real* b, real* y, int batches, int I, int J, int K,
    int a_batch, int a_row, int a_column, int b_batch, int b_row, int b_column) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= batches * I * J) return;
  int j = t % J, i = t / J % I, batch = t / J / I;

  const real* row = a + batch * a_batch + i * a_row;
  const real* column = b + batch * b_batch + j * b_column;
  real sum = 0;
  for (int k = 0; k < K; ++k) sum += row[k * a_column] * column[k * b_row];
  y[t] = sum;
}
