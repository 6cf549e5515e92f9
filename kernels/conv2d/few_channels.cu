// The trio for images x of few channels, at most four: the first layer of a discriminator, the last of a generator.
// Read naive.cu and conv2d.cu first.
//
// As a matrix product such a convolution has one side that is nearly nothing: K = KH KW C terms, 16 for a 4 x 4
// window and one channel, where a tile of conv2d.cu takes 64 or more. So y, O numbers for each pixel, is nearly all
// that there is to move. With x (128, 64, 64, 1), w (4, 4, 1, 64) and stride 2, y has 33.6 MB and x 2.1 MB. Each
// kernel here moves y once (or reads it once for each TAPS of the terms, if there are more), 16 bytes at a time, keeps
// what is small close by, and multiplies in float32.
//
//   conv2d_few            y = patches w              y written once. The 16 terms of 128 pixels are gathered into
//                                                    shared memory, and the weights brought there.
//   conv2d_weight_few     w = patches^T y            y read once, from memory to registers, past the patches. Blocks
//                                                    share out the pixels; linear/vector.cu adds up what they have.
//   conv_transpose2d_few  x = what y's pixels give   y read once, but for the edge of a tile:
//
//      y, a tile and its edge      products[k][pixel]            x
//      +--+--+--+--+               y[pixel, :] w[k, :]           a number of x adds up
//      |  |  |  |  |   O numbers   for each term k = (u, v, c)   the products of the taps
//      +--+--+--+--+   each  --->  and each pixel of y, once,    that reach it, in order
//      |  |  |  |  |               in shared memory  --------->  of u and v
//      +--+--+--+--+
//
// (One by one, the pixels of x would read each number of y KH KW times.) A tile of TR x TC pixels of x is reached by
// about TR / SH + KH / SH - 1 by TC / SW + KW / SW - 1 pixels of y; those at the edge are read by two blocks, from
// memory once and then from the cache. cuda_few.py chooses TR and TC.
//
// Threads multiply corners of 8 pixels (or terms) by 8 numbers as in ../linear/tiles.cuh: 16 reads of shared memory
// for 64 multiplications. A multiprocessor reads 32 words a cycle and multiplies 128 times, so that both keep pace.
//
// A bias, and what a leaky ReLU of this slope makes of the sum, cost nothing before y or x is stored. Without a bias
// the pointer is null; slope 1 changes nothing.
//
// Macros: TAPS, terms of a block of conv2d_weight_few and conv_transpose2d_few, 16 or 48 (for three channels); QUADS,
// groups of 4 channels of y that a thread of conv2d_few and conv2d_weight_few has, so that a block has 32 or 64; VEC,
// numbers of y or w in a load, 4 or 1.

#include "../cuda.cuh"
#include "../activation/leak.cuh"
#include "../linear/quads.cuh"
#include "sizes.cuh"

#define BK 1  // patches are gathered term by term
#include "pixels.cuh"

#define BLOCKS (TAPS == 16 ? 8 : 2)  // of those two on a multiprocessor, at least: it bounds registers

#define BATCH 128        // pixels whose patches are in shared memory
#define TERMS 16         // of a patch that are gathered at once, so that as many loads are under way
#define BN (32 * QUADS)  // channels of y of a block: 8 lanes have neighbouring quads, 128 bytes

__device__ __forceinline__ void unpack(float (&to)[4 * QUADS], const float4 (&from)[QUADS]) {
#pragma unroll
  for (int q = 0; q < QUADS; ++q)
    to[4 * q] = from[q].x, to[4 * q + 1] = from[q].y, to[4 * q + 2] = from[q].z, to[4 * q + 3] = from[q].w;
}

__device__ __forceinline__ float4 quad(const float* v) { return make_float4(v[0], v[1], v[2], v[3]); }

// Terms first, first + 1, ... of the patch at a pixel: zeros where the window leaves x. Beyond the last term they are
// numbers that nobody asks for. Lanes have neighbouring pixels, whose windows are SW C numbers apart: of what a load
// moves, the part between is what the next ones ask for, and finds in the cache.
__device__ __forceinline__ void gather(
    float (&terms)[TERMS], const float* x, const Pixel& p, int first, const Sizes& s) {
  Tap tap = tap_of(first, s.KW, s.C);
#pragma unroll
  for (int e = 0; e < TERMS; ++e) {
    int h = p.h + tap.u, w = p.w + tap.v;
    bool inside = unsigned(h) < unsigned(s.H) && unsigned(w) < unsigned(s.W);
    terms[e] = inside ? x[p.from + (tap.u * s.W + tap.v) * s.C + tap.c] : 0;
    advance(tap, s.KW, s.C);
  }
}

// x (N, H, W, C), w (KH, KW, C, O), bias (O,), y (N, OH, OW, O). Grid: (batches of pixels, tiles of channels). BATCH
// threads: one for each pixel while patches are gathered, then one for 8 pixels by 4 QUADS channels, 4 neighbours each.
extern "C" __global__ void __launch_bounds__(BATCH, 4) conv2d_few(
    const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y, Sizes s,
    const float* __restrict__ bias, float slope) {
  __shared__ __align__(16) float patches[TERMS][BATCH];
  __shared__ __align__(16) float weights[TERMS][BN];

  int K = s.KH * s.KW * s.C, M = s.N * s.OH * s.OW, m0 = blockIdx.x * BATCH, o0 = blockIdx.y * BN;
  int channel = threadIdx.x % 8 * 4, row = threadIdx.x / 8 * 4;
  Pixel mine = pixel_of_y(m0 + threadIdx.x, s);

  float acc[8][4 * QUADS] = {};
  for (int k0 = 0; k0 < K; k0 += TERMS) {
    float terms[TERMS];
    gather(terms, x, mine, k0, s);
#pragma unroll
    for (int e = 0; e < TERMS; ++e) patches[e][threadIdx.x] = terms[e];
#pragma unroll
    for (int i = threadIdx.x; i < TERMS * BN / 4; i += BATCH) {
      int e = i / (BN / 4), o = i % (BN / 4) * 4;
      if (k0 + e < K) st4(&weights[e][o], load_quad(w + (k0 + e) * s.O + o0 + o, s.O - o0 - o));
    }
    __syncthreads();  // patches and weights are there
    int count = min(TERMS, K - k0);
#pragma unroll 2
    for (int e = 0; e < count; ++e) {
      float4 upper = ld4(&patches[e][row]), lower = ld4(&patches[e][row + BATCH / 2]), quads[QUADS];
#pragma unroll
      for (int q = 0; q < QUADS; ++q) quads[q] = ld4(&weights[e][channel + 32 * q]);
      float left[8] = {upper.x, upper.y, upper.z, upper.w, lower.x, lower.y, lower.z, lower.w}, right[4 * QUADS];
      unpack(right, quads);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4 * QUADS; ++j) acc[i][j] += left[i] * right[j];
    }
    __syncthreads();  // nobody reads them any more
  }

#pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    int o = o0 + channel + 32 * q;
    float4 offset = load_quad(bias + o, bias ? s.O - o : 0);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      int m = m0 + row + i % 4 + i / 4 * (BATCH / 2);
      if (m < M) store_quad(y + m * s.O + o, s.O - o, leak_of_sum(quad(&acc[i][4 * q]), offset, slope));
    }
  }
}

#define REGION (TAPS == 16 ? 256 : 128)  // pixels of y that a block multiplies
#define RM (REGION / 32)                 // a thread's: its lane's, and every 32nd from there
#define DEPTH 16                         // channels of y that are in shared memory at a time
// From the products of one term to those of the next. Lanes with neighbouring numbers of x add up neighbouring products
// of a few terms: with stride 2, of two; with three channels, of six. These begin 16 banks apart, or 6. (Where a warp's
// numbers of x are from two rows, lanes still meet in a bank. One access of shared memory in twenty is of this kind.)
#define PITCH (REGION + (TAPS == 16 ? 16 : 6))
#define STAGE ((REGION + TAPS) * DEPTH)
#define PRODUCTS (TAPS * PITCH)
#define ROOM (STAGE > PRODUCTS ? STAGE : PRODUCTS)  // the products take the place of the tiles

// The rows (or columns) of y whose windows reach `count` rows of x from `first` on: S i - P <= h < S i - P + K.
struct Range {
  int first, count;
};

__device__ __forceinline__ Range reaching(int first, int count, int K, int S, int P, int size) {
  int low = max(first + P - K + S, 0) / S, high = min((first + count - 1 + P) / S, size - 1);
  return {low, high - low + 1};
}

// Where in the tile of y, lines of DEPTH, a pixel's quad lies. Eight pixels' quads are read at once, and two pixels'
// lines are written: that quads trade places keeps both in different banks.
__device__ __forceinline__ int place(int pixel, int quad) { return pixel * DEPTH + 4 * (quad ^ (pixel / 2 % 4)); }

// y (N, OH, OW, O), w (KH, KW, C, O), bias (C,), x (N, H, W, C). Grid: a block for each tile of rows x columns pixels
// of x, which no more than REGION pixels of y reach. A warp has 8 terms, its lanes RM pixels each.
extern "C" __global__ void __launch_bounds__(4 * TAPS, BLOCKS) conv_transpose2d_few(
    const float* __restrict__ y, const float* __restrict__ w, float* x, Sizes s,
    const float* __restrict__ bias, float slope, int rows, int columns) {
  __shared__ __align__(16) float room[ROOM];
  __shared__ int from[REGION];  // where a pixel's channels begin in y, or -1
  float *y_tile = room, *w_tile = room + REGION * DEPTH, *products = room;

  int across = (s.W + columns - 1) / columns, down = (s.H + rows - 1) / rows, K = s.KH * s.KW * s.C;
  int w0 = blockIdx.x % across * columns, h0 = blockIdx.x / across % down * rows, n = blockIdx.x / across / down;
  int last_h = min(s.H, h0 + rows), last_w = min(s.W, w0 + columns);
  Range i = reaching(h0, last_h - h0, s.KH, s.SH, s.PH, s.OH), j = reaching(w0, last_w - w0, s.KW, s.SW, s.PW, s.OW);
  for (int p = threadIdx.x; p < REGION; p += blockDim.x)
    from[p] = p < i.count * j.count
                  ? ((n * s.OH + i.first + p / j.count) * s.OW + j.first + p % j.count) * s.O
                  : -1;

  int lane = threadIdx.x % 32, term = threadIdx.x / 32 * 8;
  for (int k0 = 0; k0 < K; k0 += TAPS) {
    float acc[RM][8] = {};
    for (int o0 = 0; o0 < s.O; o0 += DEPTH) {
      __syncthreads();  // `from` is known; nobody reads what was in the room
#pragma unroll 8
      for (int q = threadIdx.x; q < REGION * DEPTH / 4; q += 4 * TAPS) {
        int at = from[q / 4], o = o0 + q % 4 * 4;
        st4(&y_tile[place(q / 4, q % 4)], load_quad(y + at + o, at >= 0 ? s.O - o : 0));
      }
      int k = k0 + threadIdx.x / 4, o = o0 + threadIdx.x % 4 * 4;  // four threads for each term
      st4(&w_tile[4 * threadIdx.x], load_quad(w + k * s.O + o, k < K ? s.O - o : 0));
      __syncthreads();  // the tiles are there
#pragma unroll 1
      for (int q = 0; q < DEPTH / 4; ++q) {
        float4 left[RM];
#pragma unroll
        for (int m = 0; m < RM; ++m) left[m] = ld4(&y_tile[place(lane, q) + 32 * m * DEPTH]);
#pragma unroll
        for (int t = 0; t < 8; ++t) {
          float4 right = ld4(&w_tile[(term + t) * DEPTH + 4 * q]);
#pragma unroll
          for (int m = 0; m < RM; ++m) {
            acc[m][t] += left[m].x * right.x;
            acc[m][t] += left[m].y * right.y;
            acc[m][t] += left[m].z * right.z;
            acc[m][t] += left[m].w * right.w;
          }
        }
      }
    }
    __syncthreads();  // nobody reads the tiles any more
#pragma unroll
    for (int t = 0; t < 8; ++t)
#pragma unroll
      for (int m = 0; m < RM; ++m) products[(term + t) * PITCH + lane + 32 * m] = acc[m][t];
    __syncthreads();  // all products are there

    int line = (last_w - w0) * s.C;  // numbers of x in a row of the tile
    for (int t = threadIdx.x; t < (last_h - h0) * line; t += blockDim.x) {
      int h = h0 + t / line, column = w0 + t % line / s.C, c = t % line % s.C;
      float* to = x + ((n * s.H + h) * s.W + column) * s.C + c;
      float sum = k0 > 0 ? *to : 0;
      for (int u = (h + s.PH) % s.SH; u < s.KH; u += s.SH) {
        int row = (h + s.PH - u) / s.SH - i.first;
        if (h + s.PH < u || row >= i.count) continue;
        for (int v = (column + s.PW) % s.SW; v < s.KW; v += s.SW) {
          int k = (u * s.KW + v) * s.C + c - k0, across_y = (column + s.PW - v) / s.SW - j.first;
          if (column + s.PW < v || across_y >= j.count || unsigned(k) >= TAPS) continue;
          sum += products[k * PITCH + row * j.count + across_y];
        }
      }
      if (k0 + TAPS >= K) sum = leak(sum + (bias ? bias[c] : 0), slope);
      *to = sum;
    }
  }
}

#define GROUPS (TAPS / 8)  // of 8 terms
#define LANES 4            // threads that share the pixels of a sum
#define ROW (TAPS + 4)     // 4 more: quads of 8 pixels are written at once, to different banks

// x (N, H, W, C), y (N, OH, OW, O), w (splits, KH, KW, C, O): split s has `chunk` pixels, a multiple of BATCH. Grid:
// (splits, tiles of channels, tiles of terms). A thread has 8 terms by 4 QUADS channels, and every LANES-th pixel.
extern "C" __global__ void __launch_bounds__(8 * GROUPS * LANES, BLOCKS) conv2d_weight_few(
    const float* __restrict__ x, const float* __restrict__ y, float* __restrict__ w, Sizes s, int chunk) {
  __shared__ __align__(16) float patches[BATCH][ROW];
  __shared__ __align__(16) float sums[TAPS][BN];

  int K = s.KH * s.KW * s.C, k0 = blockIdx.z * TAPS, o0 = blockIdx.y * BN;
  int first = blockIdx.x * chunk, last = min(s.N * s.OH * s.OW, first + chunk);
  int channel = threadIdx.x % 8 * 4, term = threadIdx.x / 8 % GROUPS * 8, mine = threadIdx.x / 8 / GROUPS;

  float acc[8][4 * QUADS] = {};
  for (int m0 = first; m0 < last; m0 += BATCH) {
    for (int i = threadIdx.x; i < BATCH * (TAPS / TERMS); i += 8 * GROUPS * LANES) {
      float terms[TERMS];
      int pixel = i % BATCH, e = i / BATCH * TERMS;
      gather(terms, x, pixel_of_y(m0 + pixel, s), k0 + e, s);
#pragma unroll
      for (int q = 0; q < TERMS; q += 4) st4(&patches[pixel][e + q], quad(terms + q));
    }
    __syncthreads();  // the patches are there
#pragma unroll 4
    for (int p = mine; p < BATCH; p += LANES) {
      float4 upper = ld4(&patches[p][term]), lower = ld4(&patches[p][term + 4]), quads[QUADS];
#pragma unroll
      for (int q = 0; q < QUADS; ++q) {
        int o = o0 + channel + 32 * q;
        quads[q] = load_quad(y + (m0 + p) * s.O + o, m0 + p < last ? s.O - o : 0);
      }
      float left[8] = {upper.x, upper.y, upper.z, upper.w, lower.x, lower.y, lower.z, lower.w}, right[4 * QUADS];
      unpack(right, quads);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4 * QUADS; ++j) acc[i][j] += left[i] * right[j];
    }
    __syncthreads();  // nobody reads them any more
  }

  for (int lane = 0; lane < LANES; ++lane) {  // one after the other, in the same order always
    if (mine == lane)
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
          float* to = &sums[term + i][channel + 32 * q];
          float4 v = quad(&acc[i][4 * q]), before = lane > 0 ? ld4(to) : make_float4(0, 0, 0, 0);
          st4(to, make_float4(before.x + v.x, before.y + v.y, before.z + v.z, before.w + v.w));
        }
    __syncthreads();  // the next may add to them
  }
  w += blockIdx.x * K * s.O;
  for (int i = threadIdx.x; i < TAPS * BN / 4; i += 8 * GROUPS * LANES) {
    int e = i / (BN / 4), o = i % (BN / 4) * 4;
    if (k0 + e < K) store_quad(w + (k0 + e) * s.O + o0 + o, s.O - o0 - o, ld4(&sums[e][o]));
  }
}
