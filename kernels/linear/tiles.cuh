// Matrix products by tiles: linear.cu explains them, conv2d.cu uses them, too.
//
// A block of threads computes a tile of BM rows by BN columns of a product A B, BK terms of the sums at a
// time, and each thread TM rows by TN columns of the tile, in registers. A's tile lies in shared memory
// transposed: for each term k, the BM numbers of the rows stand side by side, as the BN numbers of B's
// columns do.

// Floats after each line of a tile. Without them, the terms of one row, which store_along_k writes at once,
// would all fall into one of the 32 banks and be written one after the other; now no more than two do. A
// multiple of 4, so that lines begin at multiples of 16 bytes.
#define PAD 4

// How many vectors of a tile a thread brings.
#define LOADS(extent) ((extent) * BK / VEC / THREADS)

static_assert(THREADS == (BM / TM) * (BN / TN), "each thread has TM by TN of the tile");
static_assert(THREADS % (BM / VEC) == 0 && THREADS % (BN / VEC) == 0, "a thread stays in one place across k");
static_assert(THREADS % (BK / VEC) == 0, "a thread stays in one place along k");
static_assert(LOADS(BM) * THREADS * VEC == BM * BK && LOADS(BN) * THREADS * VEC == BN * BK, "all bring as many");
static_assert(BM % 4 == 0 && BN % 4 == 0 && TM % 4 == 0 && TN % 4 == 0, "lines consist of vectors");

// VEC neighbours in memory, moved by one access of 4 or 16 bytes.
struct Vector {
  float v[VEC];
};

__device__ __forceinline__ Vector load_vector(const float* p) {
#if VEC == 4
  float4 q = ld4(p);
  return {q.x, q.y, q.z, q.w};
#else
  return {*p};
#endif
}

// Where in a tile a vector begins: at which row of A (column of B), and at which term.
struct Place {
  int at, k;
};

// A thread's i-th vector of a tile, if neighbours in memory are terms of one row: a warp reads rows of BK terms.
__device__ __forceinline__ Place place_along_k(int i) {
  int vector = threadIdx.x + i * THREADS;
  return {vector / (BK / VEC), vector % (BK / VEC) * VEC};
}

// And if neighbours in memory are rows (columns) of one term. extent: of the tile, BM or BN.
template <int extent>
__device__ __forceinline__ Place place_across_k(int i) {
  int vector = threadIdx.x + i * THREADS;
  return {vector % (extent / VEC) * VEC, vector / (extent / VEC)};
}

template <int extent>
__device__ __forceinline__ void store_along_k(
    float (&tile)[BK][extent + PAD], const Vector (&vectors)[LOADS(extent)]) {
#pragma unroll
  for (int i = 0; i < LOADS(extent); ++i) {
    Place p = place_along_k(i);
#pragma unroll
    for (int e = 0; e < VEC; ++e) tile[p.k + e][p.at] = vectors[i].v[e];
  }
}

template <int extent>
__device__ __forceinline__ void store_across_k(
    float (&tile)[BK][extent + PAD], const Vector (&vectors)[LOADS(extent)]) {
#pragma unroll
  for (int i = 0; i < LOADS(extent); ++i) {
    Place p = place_across_k<extent>(i);
#if VEC == 4
    st4(&tile[p.k][p.at], make_float4(vectors[i].v[0], vectors[i].v[1], vectors[i].v[2], vectors[i].v[3]));
#else
    tile[p.k][p.at] = vectors[i].v[0];
#endif
  }
}

// The thread's corner of the block's tile. Neighbouring threads have neighbouring columns.
__device__ __forceinline__ int thread_row() { return threadIdx.x / (BN / TN) * TM; }
__device__ __forceinline__ int thread_column() { return threadIdx.x % (BN / TN) * TN; }

// acc += a^T b over the BK terms in shared memory: for each, TM + TN numbers are read and TM TN products
// added.
__device__ __forceinline__ void multiply_tiles(
    const float (&a)[BK][BM + PAD], const float (&b)[BK][BN + PAD], float (&acc)[TM][TN]) {
  int row = thread_row(), column = thread_column();
#pragma unroll
  for (int k = 0; k < BK; ++k) {
    float left[TM], right[TN];
#pragma unroll
    for (int i = 0; i < TM; i += 4) {
      float4 q = ld4(&a[k][row + i]);
      left[i] = q.x, left[i + 1] = q.y, left[i + 2] = q.z, left[i + 3] = q.w;
    }
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      float4 q = ld4(&b[k][column + j]);
      right[j] = q.x, right[j + 1] = q.y, right[j + 2] = q.z, right[j + 3] = q.w;
    }
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) acc[i][j] += left[i] * right[j];
  }
}

// One row of a thread's sums into line[first ...], of which the result has `columns`.
__device__ __forceinline__ void store_row(float* line, int first, int columns, const float (&sums)[TN]) {
#pragma unroll
  for (int j = 0; j < TN; j += VEC) {
    if (first + j >= columns) break;
#if VEC == 4
    st4(line + first + j, make_float4(sums[j], sums[j + 1], sums[j + 2], sums[j + 3]));
#else
    line[first + j] = sums[j];
#endif
  }
}
