// Matrix products in which a vector takes part, float32. Read naive.cu first.
//
// Each number of the matrix is multiplied once: no tile could use it twice. So the matrix, L numbers a row, is read (or
// written) once, 16 bytes at a time, and all else is small. The head of a discriminator is such a layer, a convolution
// of 4 x 4 pixels to one number: with N images and 512 channels the matrix is x (N, 8192), or its gradient.
//
//   matrix_vector         vector_matrix          outer            add_parts
//
//   ======>  .            |  |  |  |  32         a |  b =====     parts of sums that several
//   ======>  . sums       |  |  |  |  columns      |  =====       blocks had, added in order:
//   ======>  . along      v  v  v  v               |  =====       vector_matrix with ones
//   ======>  . rows       .  .  .  .  sums down    |  =====
//
// Sums are cut into pieces by the shapes alone and added in one order: their bits do not depend on the GPU.
//
// Macro VEC: how many neighbours a load or store of the matrix has, 4 or 1.

#include "../cuda.cuh"
#include "quads.cuh"

__device__ __forceinline__ void add_product(float4& sum, float4 a, float4 b) {
  sum.x += a.x * b.x, sum.y += a.y * b.y, sum.z += a.z * b.z, sum.w += a.w * b.w;
}

// y[r] = sum over l of  matrix[r, l] vector[l]         matrix (R, L), vector (L,), y (R,)
// Blocks of (lanes, 256 / lanes) threads, lanes a power of two: so many have a row, blockDim.y rows a block.
extern "C" __global__ void __launch_bounds__(256) matrix_vector(
    const float* __restrict__ matrix, const float* __restrict__ vector, float* __restrict__ y, int R, int L) {
  int r = blockIdx.x * blockDim.y + threadIdx.y;
  float4 sums = {};
  if (r < R) {
    const float* row = matrix + r * L;
#pragma unroll 4
    for (int l = threadIdx.x * 4; l < L; l += blockDim.x * 4)
      add_product(sums, load_quad(row + l, L - l), load_quad(vector + l, L - l));
  }
  float sum = (sums.x + sums.y) + (sums.z + sums.w);
  for (int half = min(blockDim.x, 32) / 2; half > 0; half /= 2) sum += __shfl_xor_sync(0xffffffff, sum, half);
  if (blockDim.x > 32) {  // a row has several warps
    __shared__ float warps[8];
    int thread = threadIdx.y * blockDim.x + threadIdx.x, warps_of_row = blockDim.x / 32;
    if (thread % 32 == 0) warps[thread / 32] = sum;
    __syncthreads();  // all warps' sums are there
    sum = 0;
    for (int i = 0; i < warps_of_row; ++i) sum += warps[threadIdx.y * warps_of_row + i];
  }
  if (threadIdx.x == 0 && r < R) y[r] = sum;
}

#define LANES 8  // threads side by side: a block has 32 columns, 128 bytes of each row

// y[split, l] = sum over the split's r of  vector[r] matrix[r, l]     matrix (R, L), vector (R,), y (splits, L)
// Grid: (tiles of 32 columns, splits of `chunk` rows). Of 256 threads LANES have a row, the others the next rows.
extern "C" __global__ void __launch_bounds__(256) vector_matrix(
    const float* __restrict__ vector, const float* __restrict__ matrix, float* __restrict__ y, int R, int L,
    int chunk) {
  __shared__ __align__(16) float warps[8][32];
  int l = blockIdx.x * 32 + threadIdx.x % LANES * 4, last = min(R, (blockIdx.y + 1) * chunk);
  float4 sum = {};
#pragma unroll 4
  for (int r = blockIdx.y * chunk + threadIdx.x / LANES; r < last; r += 256 / LANES) {
    float factor = vector[r];
    add_product(sum, make_float4(factor, factor, factor, factor), load_quad(matrix + r * L + l, L - l));
  }
#pragma unroll
  for (int step = LANES; step < 32; step *= 2) {  // rows that are in one warp
    sum.x += __shfl_xor_sync(0xffffffff, sum.x, step), sum.y += __shfl_xor_sync(0xffffffff, sum.y, step);
    sum.z += __shfl_xor_sync(0xffffffff, sum.z, step), sum.w += __shfl_xor_sync(0xffffffff, sum.w, step);
  }
  int lane = threadIdx.x % 32;
  if (lane < LANES) st4(&warps[threadIdx.x / 32][lane * 4], sum);
  __syncthreads();  // all warps' sums are there
  int mine = blockIdx.x * 32 + threadIdx.x;
  if (threadIdx.x < 32 && mine < L) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) total += warps[i][threadIdx.x];
    y[blockIdx.y * L + mine] = total;
  }
}

// y[i, j] = a[i] b[j]        a (I,), b (J,), y (I, J). A thread for each quad of a row.
extern "C" __global__ void __launch_bounds__(256) outer(
    const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int I, int J) {
  int quads = (J + 3) / 4, t = blockIdx.x * 256 + threadIdx.x, i = t / quads, j = t % quads * 4;
  if (i >= I) return;
  float factor = a[i];
  float4 v = load_quad(b + j, J - j);
  store_quad(y + i * J + j, J - j, make_float4(factor * v.x, factor * v.y, factor * v.z, factor * v.w));
}

// y[t] = parts[0, t] + parts[1, t] + ...        parts (splits, size). Blocks of 32 neighbours by 8 warps, each of which
// adds up every eighth part: one thread alone would wait hundreds of times for memory.
extern "C" __global__ void __launch_bounds__(256) add_parts(
    const float* __restrict__ parts, float* __restrict__ y, int splits, int size) {
  __shared__ float warps[8][32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = blockIdx.x * 32 + lane;
  float sum = 0;
  if (t < size)
#pragma unroll 8
    for (int split = warp; split < splits; split += 8) sum += parts[split * size + t];
  warps[warp][lane] = sum;
  __syncthreads();  // all warps' sums are there
  if (warp == 0 && t < size) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) total += warps[i][lane];
    y[t] = total;
  }
}
