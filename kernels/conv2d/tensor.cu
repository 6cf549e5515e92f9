// The convolution trio on tensor cores, in tf32 or bf16 with float32 sums. Read conv2d.cu for the matrices (which
// pixels are rows, which taps are terms, what a phase is) and ../linear/tensor.cu for how they are multiplied.
//
// What is left to say here is where the numbers of a tile come from, and where the sums go.
//
// From: each thread begins copies of VEC channels at a pixel's tap, or of zeros where there is no such pixel, and goes
// on (`fetch_patches`). A tile of patches lies along k for conv2d and conv_transpose2d, whose neighbours in memory,
// channels, are terms of a pixel; across k for conv2d_weight, where pixels are the terms and channels are rows.
//
// To: while the sums are in registers, what would follow is done to them for free ("epilogue"):
//
//   bias     is added, then what is below zero is multiplied by `slope`, unless that is 1
//   moments  of the block's rows, as they are without a bias, the mean of each channel and the sum of squared
//            deviations from it: what batch_norm.cu's strip_moments would read the whole result for.
//            combine_moments adds them up.
//
// Null pointers leave them out. The sums of conv2d_weight, long and few, are split among blocks, as those of small
// layers are: then there is no epilogue, since no block has a whole sum.
//
// Grid: (tiles of rows, tiles of columns, phases x splits). Macros: as for ../linear/tensor.cu.

#include "../cuda.cuh"
#include "../mma.cuh"
#include "../activation/leak.cuh"
#include "../linear/mma_tiles.cuh"
#include "sizes.cuh"
#include "pixels.cuh"

#if VEC == 4
__device__ __forceinline__ Piece load_piece(const float* p) { return ld4(p); }
#else
__device__ __forceinline__ Piece load_piece(const float* p) { return *p; }
__device__ __forceinline__ Piece leak_of_sum(Piece v, Piece b, float slope) { return leak(v + b, slope); }
#endif

struct Epilogue {
  const float* bias;  // (columns,)
  double* means;      // (strips, columns), strips of BM rows
  double* squares;
  float slope;
};

// Begins to copy VEC channels of image (.., H, W, C) at a pixel's tap (SIGN u, SIGN v) to a place of a tile; zeros
// where there is no such pixel, and where `tap` is beyond the last one.
template <int SIGN, bool along_k>
__device__ __forceinline__ void fetch_patch(
    float* tile, Place to, const float* image, int H, int W, int C, const Pixel& p, const Tap& tap, int taps_down) {
  int h = p.h + SIGN * tap.u, w = p.w + SIGN * tap.v;
  bool inside = unsigned(h) < unsigned(H) && unsigned(w) < unsigned(W) && tap.u < taps_down;
  bring<BM, along_k>(tile, to, image + p.from + SIGN * (tap.u * W + tap.v) * C + tap.c, inside);
}

// The thread's part of a tile of B where B is a matrix (terms, columns) as it lies in memory.
__device__ __forceinline__ void fetch_matrix(
    float* tile, const float* matrix, int k, int terms, int first, int columns) {
#pragma unroll
  for (int i = 0; i < LOADS(BN); ++i) {
    Place p = my_place<BN, false>(i);
    int term = k + p.k, column = first + p.at;
    bring<BN, false>(tile, p, matrix + term * columns + column, term < terms && column < columns);
  }
}

// Of each column of the block's tile, over its first `count` rows: the mean, and the sum of squared deviations from it.
// In two passes over registers, so that nothing cancels. A column's rows are in 8 lanes of each of BM / WM warps.
__device__ __forceinline__ void store_moments(
    const Sums& acc, int count, int strip, int first, int columns, double* means, double* squares) {
  float(*of_warp)[BN] = reinterpret_cast<float(*)[BN]>(shared_memory);  // (passes x BM / WM, BN)
  uint32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = warp_row() / WM;
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    __syncthreads();  // nobody reads tiles any more; and then: the sums of all warps are there
#pragma unroll
    for (int j = 0; j < COLUMNS_OF_MMA; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        uint32 column = warp_column() + 8 * j + 2 * t + e;
        float mean = 0, sum = 0;
        if (pass) {
          for (int i = 0; i < BM / WM; ++i) mean += of_warp[i][column];
          mean /= count;
        }
#pragma unroll
        for (int i = 0; i < 2 * ROWS_OF_MMA; ++i) {
          float d = acc[i / 2][j][i % 2 * 2 + e] - mean;
          if (int(warp_row() + 8 * i + g) < count) sum += pass ? d * d : d;
        }
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) sum += __shfl_xor_sync(0xffffffff, sum, lanes);
        if (g == 0) of_warp[pass * (BM / WM) + warp][column] = sum;
      }
  }
  __syncthreads();  // the sums of all warps are there
  for (int column = threadIdx.x; column < BN && first + column < columns; column += THREADS) {
    float sum = 0, square = 0;
    for (int i = 0; i < BM / WM; ++i) sum += of_warp[i][column], square += of_warp[BM / WM + i][column];
    means[strip * columns + first + column] = (double)sum / count;
    squares[strip * columns + first + column] = square;
  }
}

// The block's sums into the channels of their pixels, by way of the epilogue. count: how many rows of the tile there
// are; strip: its number among the strips of moments. (A warp asks for the `to` of 16 pixels, which are 16 bytes apart:
// two wavefronts, a bank conflict that an array of its own would avoid. It happens once for 16 x 8 sums.)
__device__ __forceinline__ void store_pixels(
    float* image, const Pixel (&pixels)[BM], int count, int strip, int first, int columns, Sums& acc, Epilogue e) {
  if (e.means) store_moments(acc, count, strip, first, columns, e.means, e.squares);
  for_each_piece(acc, [&](int row, int column, Piece v) {
    int channel = first + column, to = pixels[row].to;
    if (to < 0 || channel >= columns) return;
    if (e.bias) v = leak_of_sum(v, load_piece(e.bias + channel), e.slope);
    store_piece(image + to + channel, v);
  });
}

// x (N, H, W, C), w (KH, KW, C, O), y (splits, N, OH, OW, O).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_mma(
    const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Sizes s, int chunk,
    const float* bias, float slope, double* means, double* squares) {
  __shared__ Pixel pixels[BM];
  int m0 = blockIdx.x * BM, o0 = blockIdx.y * BN, rows = s.N * s.OH * s.OW, terms = s.KH * s.KW * s.C;
  int first = blockIdx.z * chunk, tiles = (min(terms, first + chunk) - first + BK - 1) / BK;
  for (int row = threadIdx.x; row < BM; row += THREADS) pixels[row] = pixel_of_y(m0 + row, s);
  __syncthreads();  // all rows' pixels are known

  Sums acc = {};
  Tap tap = tap_of(first + my_place<BM, true>(0).k, s.KW, s.C);
  multiply_tiles<true, false>(tiles, acc, [&](int i, float* a_tile, float* b_tile) {
#pragma unroll
    for (int load = 0; load < LOADS(BM); ++load) {
      Place p = my_place<BM, true>(load);
      fetch_patch<1, true>(a_tile, p, x, s.H, s.W, s.C, pixels[p.at], tap, s.KH);
    }
    fetch_matrix(b_tile, w, first + i * BK, terms, o0, s.O);
    advance(tap, s.KW, s.C);
  });
  store_pixels(y + blockIdx.z * rows * s.O, pixels, min(BM, rows - m0), blockIdx.x, o0, s.O, acc,
               {bias, means, squares, slope});
}

// y (N, OH, OW, O), w (KH, KW, C, O), x (splits, N, H, W, C).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_transpose2d_mma(
    const float* __restrict__ y, const float* __restrict__ w, float* __restrict__ x, Sizes s, int chunk,
    const float* bias, float slope, double* means, double* squares) {
  __shared__ Pixel pixels[BM];
  int splits = gridDim.z / (s.SH * s.SW), split = blockIdx.z % splits, number = blockIdx.z / splits;
  Phase f = phase_of(number, s);
  int m0 = blockIdx.x * BM, c0 = blockIdx.y * BN, rows = s.N * f.rows * f.columns;
  int terms = f.taps_down * f.taps_right * s.O;  // a phase may have fewer taps than another, and then no tiles
  int first = split * chunk, tiles = (min(terms, first + chunk) - first + BK - 1) / BK;
  for (int row = threadIdx.x; row < BM; row += THREADS) pixels[row] = pixel_of_x(m0 + row, f, s);
  __syncthreads();  // all rows' pixels are known

  Sums acc = {};  // zeros are the result where the window is smaller than the stride, and no tap reaches a phase
  Tap tap = tap_of(first + my_place<BM, true>(0).k, max(f.taps_right, 1), s.O);
  multiply_tiles<true, true>(tiles, acc, [&](int, float* a_tile, float* b_tile) {
#pragma unroll
    for (int load = 0; load < LOADS(BM); ++load) {
      Place p = my_place<BM, true>(load);
      fetch_patch<-1, true>(a_tile, p, y, s.OH, s.OW, s.O, pixels[p.at], tap, f.taps_down);
    }
    int u = f.u + s.SH * tap.u, v = f.v + s.SW * tap.v;
#pragma unroll
    for (int load = 0; load < LOADS(BN); ++load) {
      Place p = my_place<BN, true>(load);
      int c = c0 + p.at;
      bring<BN, true>(b_tile, p, w + ((u * s.KW + v) * s.C + c) * s.O + tap.c, u < s.KH && c < s.C);
    }
    advance(tap, f.taps_right, s.O);
  });
  store_pixels(x + split * s.N * s.H * s.W * s.C, pixels, min(BM, rows - m0), number * gridDim.x + blockIdx.x, c0, s.C,
               acc, {bias, means, squares, slope});
}

// x (N, H, W, C), y (N, OH, OW, O), w (splits, KH, KW, C, O).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv2d_weight_mma(
    const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ w, Sizes s, int chunk) {
  __shared__ Pixel pixels[STAGES][BK];  // of the tiles that are fetched next
  int m0 = blockIdx.x * BM, o0 = blockIdx.y * BN, rows = s.KH * s.KW * s.C, terms = s.N * s.OH * s.OW;
  int first = blockIdx.z * chunk, tiles = (min(terms, first + chunk) - first + BK - 1) / BK;
  for (int k = threadIdx.x; k < STAGES * BK; k += THREADS) pixels[k / BK][k % BK] = pixel_of_y(first + k, s);
  __syncthreads();  // the first tiles' pixels are known

  Sums acc = {};
  Tap tap = tap_of(m0 + my_place<BM, false>(0).at, s.KW, s.C);  // the same for all of the thread's vectors
  multiply_tiles<false, false>(tiles, acc, [&](int i, float* a_tile, float* b_tile) {
#pragma unroll
    for (int load = 0; load < LOADS(BM); ++load) {
      Place p = my_place<BM, false>(load);
      fetch_patch<1, false>(a_tile, p, x, s.H, s.W, s.C, pixels[i % STAGES][p.k], tap, s.KH);
    }
    fetch_matrix(b_tile, y, first + i * BK, terms, o0, s.O);
    // The next tile's pixels go where those of tile i + 1 - STAGES were, which nobody reads since the barrier in front
    // of this fetch; and there is another one before anybody reads these. (The first STAGES are there.)
    int k = (i + 1) * BK + threadIdx.x;
    if (i >= STAGES - 1 && threadIdx.x < BK) pixels[(i + 1) % STAGES][threadIdx.x] = pixel_of_y(first + k, s);
  });
  w += blockIdx.z * rows * s.O;
  for_each_piece(acc, [=](int row, int column, Piece v) {
    if (m0 + row < rows && o0 + column < s.O) store_piece(w + (m0 + row) * s.O + o0 + column, v);
  });
}
