// The convolution trio as matrix products by tiles, float32. Read naive.cu and ../linear/linear.cu first.
//
// A number of a convolution is one long sum over u, v, c. The patches of x that the pixels of y look at, one
// under the other, are a matrix A, and the convolution is A times w:
//
//   kernel            A (rows, terms)                         B (terms, columns)   result, row by row
//   conv2d            patches: (pixels of y, taps x C)        w                    pixels of y
//   conv_transpose2d  patches: (pixels of x, taps x O)        w, transposed        pixels of x
//   conv2d_weight     patches^T: (taps x C, pixels of y)      y                    w
//
// A holds each number of x up to KH KW times, and nobody writes it down: a block gathers the tile that it
// needs from x while it fills shared memory ("implicit GEMM"). Channels are the last axis of an image and the
// last part of a term (u, v, c): neighbours in a tile are neighbours in memory, and one load brings VEC of
// them.
//
// Where a pixel lies takes divisions: one thread does them for each row of the tile, for all (`Pixel`, in
// shared memory). Where a term lies, each thread counts by itself (`Tap`). What a load still needs is a few
// additions, and the comparisons that make the padding.
//
// conv_transpose2d: tap u reaches only those rows h of x for which h + PH - u is a multiple of SH. All pixels
// with the same h mod SH and the same w mod SW, a phase, have the same taps, and are a small convolution of
// stride 1: the grid has a layer for each phase. Each number of x is written once, and nothing is added up in
// memory.
//
// Grid: (tiles of rows, tiles of columns, phases x splits), blocks of THREADS. Each of `splits` blocks has
// `chunk` terms of the sums, and linear.cu's add_splits adds up what they get. Macros: BM BN BK TM TN VEC
// THREADS, from ../linear/cuda.py.

#include "../cuda.cuh"
#include "../linear/tiles.cuh"
#include "sizes.cuh"
#include "pixels.cuh"

// VEC channels of image (.., H, W, C) at a pixel's tap (SIGN u, SIGN v), or zeros where there is no such pixel. (Its
// lanes do not ask for `from`, and the emulator's report, which counts times, mixes the others': no bank conflicts.)
template <int SIGN>
__device__ __forceinline__ Vector gather(
    const float* image, int H, int W, int C, const Pixel& p, const Tap& tap) {
  int h = p.h + SIGN * tap.u, w = p.w + SIGN * tap.v;
  bool inside = unsigned(h) < unsigned(H) && unsigned(w) < unsigned(W);  // negative ones become large
  return inside ? load_vector(image + p.from + SIGN * (tap.u * W + tap.v) * C + tap.c) : Vector{};
}

// A thread's vectors of the patches of BM pixels: all at one tap, since all begin at the same term of a row,
// and zeros beyond the last tap, as in B: 0 times whatever the image has there might not be 0.
template <int SIGN>
__device__ __forceinline__ void fetch_patches(
    Vector (&vectors)[LOADS(BM)], const float* image, int H, int W, int C, const Pixel (&pixels)[BM],
    const Tap& tap, int taps_down) {
#pragma unroll
  for (int i = 0; i < LOADS(BM); ++i)
    vectors[i] =
        tap.u < taps_down ? gather<SIGN>(image, H, W, C, pixels[place_along_k(i).at], tap) : Vector{};
}

// The thread's vectors of a tile of B where B is a matrix (terms, columns) as it lies in memory.
__device__ __forceinline__ void fetch_matrix(
    Vector (&vectors)[LOADS(BN)], const float* matrix, int k, int terms, int first, int columns) {
#pragma unroll
  for (int i = 0; i < LOADS(BN); ++i) {
    Place p = place_across_k<BN>(i);
    int term = k + p.k, column = first + p.at;
    vectors[i] = term < terms && column < columns ? load_vector(matrix + term * columns + column) : Vector{};
  }
}

// The thread's sums into the channels of their pixels. (A warp's are TM x 16 bytes apart: bank conflicts, TM.)
__device__ __forceinline__ void store_pixels(
    float* image, const Pixel (&pixels)[BM], int channel, int channels, const float (&acc)[TM][TN]) {
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    int to = pixels[thread_row() + i].to;
    if (to >= 0) store_row(image + to, channel + thread_column(), channels, acc[i]);
  }
}

// x (N, H, W, C), w (KH, KW, C, O), y (splits, N, OH, OW, O).
extern "C" __global__ void __launch_bounds__(THREADS, 4) conv2d_tiled(
    const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Sizes s, int chunk) {
  __shared__ __align__(16) float a_tile[BK][BM + PAD];
  __shared__ __align__(16) float b_tile[BK][BN + PAD];
  __shared__ Pixel pixels[BM];

  int m0 = blockIdx.x * BM, o0 = blockIdx.y * BN, terms = s.KH * s.KW * s.C;
  int first = blockIdx.z * chunk, last = first + chunk;
  for (int row = threadIdx.x; row < BM; row += THREADS) pixels[row] = pixel_of_y(m0 + row, s);
  __syncthreads();  // all rows' pixels are known

  Vector a_next[LOADS(BM)], b_next[LOADS(BN)];
  float acc[TM][TN] = {};
  Tap tap = tap_of(first + place_along_k(0).k, s.KW, s.C);
  fetch_patches<1>(a_next, x, s.H, s.W, s.C, pixels, tap, s.KH);
  fetch_matrix(b_next, w, first, terms, o0, s.O);
  for (int k = first; k < last; k += BK) {
    store_along_k<BM>(a_tile, a_next);
    store_across_k<BN>(b_tile, b_next);
    __syncthreads();  // the tiles are complete
    advance(tap, s.KW, s.C);
    fetch_patches<1>(a_next, x, s.H, s.W, s.C, pixels, tap, s.KH);  // on the way while tiles are multiplied
    fetch_matrix(b_next, w, k + BK, terms, o0, s.O);
    multiply_tiles(a_tile, b_tile, acc);
    __syncthreads();  // nobody reads the tiles any more
  }
  store_pixels(y + blockIdx.z * s.N * s.OH * s.OW * s.O, pixels, o0, s.O, acc);
}

// The thread's vectors of w for BN channels of x: neighbours in memory are terms (u, v, o) of one channel.
__device__ __forceinline__ void fetch_weights(
    Vector (&vectors)[LOADS(BN)], const float* w, int c0, const Phase& f, const Tap& tap, const Sizes& s) {
  int u = f.u + s.SH * tap.u, v = f.v + s.SW * tap.v;
#pragma unroll
  for (int i = 0; i < LOADS(BN); ++i) {
    int c = c0 + place_along_k(i).at;
    bool inside = u < s.KH && c < s.C;
    vectors[i] = inside ? load_vector(w + ((u * s.KW + v) * s.C + c) * s.O + tap.c) : Vector{};
  }
}

// y (N, OH, OW, O), w (KH, KW, C, O), x (splits, N, H, W, C).
extern "C" __global__ void __launch_bounds__(THREADS, 4) conv_transpose2d_tiled(
    const float* __restrict__ y, const float* __restrict__ w, float* __restrict__ x, Sizes s, int chunk) {
  __shared__ __align__(16) float a_tile[BK][BM + PAD];
  __shared__ __align__(16) float b_tile[BK][BN + PAD];
  __shared__ Pixel pixels[BM];

  int splits = gridDim.z / (s.SH * s.SW), split = blockIdx.z % splits;
  Phase f = phase_of(blockIdx.z / splits, s);
  int m0 = blockIdx.x * BM, c0 = blockIdx.y * BN;
  int terms = f.taps_down * f.taps_right * s.O;  // a phase may have fewer taps than another
  int first = split * chunk, last = first + chunk;
  for (int row = threadIdx.x; row < BM; row += THREADS) pixels[row] = pixel_of_x(m0 + row, f, s);
  __syncthreads();  // all rows' pixels are known

  float acc[TM][TN] = {};
  if (first < terms) {  // where the window is smaller than the stride, no tap reaches some phases
    Vector a_next[LOADS(BM)], b_next[LOADS(BN)];
    Tap tap = tap_of(first + place_along_k(0).k, f.taps_right, s.O);
    fetch_patches<-1>(a_next, y, s.OH, s.OW, s.O, pixels, tap, f.taps_down);
    fetch_weights(b_next, w, c0, f, tap, s);
    for (int k = first; k < last && k < terms; k += BK) {
      store_along_k<BM>(a_tile, a_next);
      store_along_k<BN>(b_tile, b_next);
      __syncthreads();  // the tiles are complete
      advance(tap, f.taps_right, s.O);
      fetch_patches<-1>(a_next, y, s.OH, s.OW, s.O, pixels, tap, f.taps_down);
      fetch_weights(b_next, w, c0, f, tap, s);
      multiply_tiles(a_tile, b_tile, acc);
      __syncthreads();  // nobody reads the tiles any more
    }
  }
  store_pixels(x + split * s.N * s.H * s.W * s.C, pixels, c0, s.C, acc);
}

// The thread's vectors of the transposed patches: one tap, and the pixels of y that are terms now.
__device__ __forceinline__ void fetch_patches_transposed(
    Vector (&vectors)[LOADS(BM)], const float* x, const Pixel (&pixels)[BK], const Tap& tap, const Sizes& s) {
#pragma unroll
  for (int i = 0; i < LOADS(BM); ++i)
    vectors[i] = gather<1>(x, s.H, s.W, s.C, pixels[place_across_k<BM>(i).k], tap);
}

// x (N, H, W, C), y (N, OH, OW, O), w (splits, KH, KW, C, O).
extern "C" __global__ void __launch_bounds__(THREADS, 4) conv2d_weight_tiled(
    const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ w, Sizes s, int chunk) {
  __shared__ __align__(16) float a_tile[BK][BM + PAD];
  __shared__ __align__(16) float b_tile[BK][BN + PAD];
  __shared__ Pixel pixels[BK];

  int m0 = blockIdx.x * BM, o0 = blockIdx.y * BN, rows = s.KH * s.KW * s.C, terms = s.N * s.OH * s.OW;
  int first = blockIdx.z * chunk, last = first + chunk;
  if (threadIdx.x < BK) pixels[threadIdx.x] = pixel_of_y(first + threadIdx.x, s);
  __syncthreads();  // the first BK pixels are known

  Vector a_next[LOADS(BM)], b_next[LOADS(BN)];
  float acc[TM][TN] = {};
  Tap tap = tap_of(m0 + place_across_k<BM>(0).at, s.KW, s.C);
  fetch_patches_transposed(a_next, x, pixels, tap, s);
  fetch_matrix(b_next, y, first, terms, o0, s.O);
  __syncthreads();  // everybody has read them
  for (int k = first; k < last; k += BK) {
    store_across_k<BM>(a_tile, a_next);
    store_across_k<BN>(b_tile, b_next);
    if (threadIdx.x < BK) pixels[threadIdx.x] = pixel_of_y(k + BK + threadIdx.x, s);
    __syncthreads();  // the tiles are complete, and the next pixels are known
    fetch_patches_transposed(a_next, x, pixels, tap, s);
    fetch_matrix(b_next, y, k + BK, terms, o0, s.O);
    multiply_tiles(a_tile, b_tile, acc);
    __syncthreads();  // nobody reads the tiles or the pixels any more
  }

  w += blockIdx.z * rows * s.O;
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    int row = m0 + thread_row() + i;
    if (row < rows) store_row(w + row * s.O, o0 + thread_column(), s.O, acc[i]);
  }
}
