// Matrix products by tiles on tensor cores: tensor.cu explains them, conv2d/tensor.cu uses them, too.
//
// A block computes BM rows by BN columns of A B, BK terms of the sums at a time, each of its warps WM by WN of
// them; STAGES tiles of BK terms are in shared memory or on their way there.
//
// Tiles lie in shared memory as they lie in global memory, since cp.async copies 16 bytes and changes nothing:
//
//   along k    neighbours are terms of one row of A (column of B):  BM (BN) lines of BK numbers
//   across k   neighbours are rows (columns) of one term:           BK lines of BM (BN) numbers
//
// but the 16-byte pieces of a line change places ("swizzle"). Line after line as they are, the numbers that a
// warp wants at once, one piece of each of 8 lines or two of each of 4, would be in the same banks.

#define TERMS 8                // that one load of fragments brings
#define ROWS_OF_MMA (WM / 16)  // fragments of a warp, downwards
#define COLUMNS_OF_MMA (WN / 8)
#define LOADS(extent) ((extent) * BK / VEC / THREADS)  // vectors of a tile that a thread brings
#define TILES ((BM + BN) * BK)                         // floats of a stage

static_assert(THREADS == 32 * (BM / WM) * (BN / WN), "each warp has WM by WN of the tile");
static_assert(BK == 32, "a line along k has 8 pieces, as many as ldmatrix reads lines at once");
static_assert(THREADS % (BK / VEC) == 0, "a thread stays in one place along k");
static_assert(THREADS % (BM / VEC) == 0 && THREADS % (BN / VEC) == 0, "a thread stays in one place across k");
static_assert(LOADS(BM) * THREADS * VEC == BM * BK && LOADS(BN) * THREADS * VEC == BN * BK, "all bring as many");
static_assert(WM % 16 == 0 && WN % 16 == 0, "fragments of A have 16 rows, pairs of those of B 16 columns");

extern __shared__ float4 shared_memory[];  // STAGES times a tile of A and a tile of B; float4 for its alignment

__device__ __forceinline__ float* stage_of(int number) {
  return reinterpret_cast<float*>(shared_memory) + number % STAGES * TILES;
}

// Where in a tile the number of row (column) `at` and term k is.
//
// Along k, a piece trades places by the last 3 bits of its line: the same piece of 8 lines is in 8 places, 32
// banks. Across k, a warp reads 8 neighbours of each of 4 terms: two pieces of 4 lines, which the line's last
// 2 bits send to 4 places, 2 pieces apart. (Lines of 16 numbers are half as long as the 32 banks are wide: two of
// them are apart anyway.)
template <int extent, bool along_k>
__device__ __forceinline__ uint32 place_of(uint32 at, uint32 k) {  // unsigned: the compiler need not think of -1 / 4
  if (along_k) return at * BK + ((k / 4 ^ at % 8) * 4 + k % 4);
  constexpr uint32 lines = extent < 32 ? 32 / extent : 1;  // that the banks hold
  return k * extent + ((at / 4 ^ k / lines % (4 / lines) * 2) * 4 + at % 4);
}

// Where in a tile a thread's i-th vector begins. Threads of a warp bring neighbours in memory.
struct Place {
  uint32 at, k;
};

template <int extent, bool along_k>
__device__ __forceinline__ Place my_place(int i) {
  uint32 vector = threadIdx.x + i * THREADS;
  if (along_k) return {vector / (BK / VEC), vector % (BK / VEC) * VEC};
  return {vector % (extent / VEC) * VEC, vector / (extent / VEC)};
}

// Begins to copy a vector to its place; zeros where `inside` is false, and nothing is read there.
template <int extent, bool along_k>
__device__ __forceinline__ void bring(float* tile, Place p, const float* from, bool inside) {
  cp_async<4 * VEC>(tile + place_of<extent, along_k>(p.at, p.k), from, inside ? 4 * VEC : 0);
}

// The warp's corner of the block's tile.
__device__ __forceinline__ uint32 warp_row() { return threadIdx.x / 32 / (BN / WN) * WM; }
__device__ __forceinline__ uint32 warp_column() { return threadIdx.x / 32 % (BN / WN) * WN; }

// 16 rows by 8 terms of A, from `row` and `k` on, as floats in the order of an mma's fragment.
template <bool along_k>
__device__ __forceinline__ void load_rows(uint32 (&words)[4], const float* tile, uint32 row, uint32 k) {
  uint32 lane = threadIdx.x % 32;
  if (along_k) {  // four matrices of 8 rows of 16 bytes: above and below, the first 4 terms and the last
    ldmatrix_x4(words, tile + place_of<BM, true>(row + lane % 16, k + lane / 16 * 4));
    return;
  }
  uint32 g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] = __float_as_uint(tile[place_of<BM, false>(row + g + i % 2 * 8, k + t + i / 2 * 4)]);
}

// 8 terms by 16 columns of B, two fragments.
template <bool along_k>
__device__ __forceinline__ void load_columns(uint32 (&words)[4], const float* tile, uint32 column, uint32 k) {
  uint32 lane = threadIdx.x % 32;
  if (along_k) {  // the first 4 terms and the last, the first 8 columns and the last
    ldmatrix_x4(words, tile + place_of<BN, true>(column + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 4));
    return;
  }
  uint32 g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] = __float_as_uint(tile[place_of<BN, false>(column + g + i / 2 * 8, k + t + i % 2 * 4)]);
}

typedef float Sums[ROWS_OF_MMA][COLUMNS_OF_MMA][4];

// Fragments of one mma: of A as they are, and two of B, which are loaded together.
struct Left {
  uint32 a[4];
};
struct Right {
  uint32 b[2][2];
};

#if BF16
#define STEP (2 * TERMS)  // terms of one mma

// In which order terms are multiplied is ours to choose, as long as it is the same in A and B: where this mma wants
// terms 2 t and 2 t + 1 in one register, it is given t and t + 4 of what tf32 would be given, once for the first 8
// terms and once for the last.
template <bool along_k>
__device__ __forceinline__ Left left_at(const float* tile, uint32 row, uint32 k) {
  uint32 w[4], v[4];
  load_rows<along_k>(w, tile, row, k);
  load_rows<along_k>(v, tile, row, k + TERMS);
  return {{pack_bf16(w[0], w[2]), pack_bf16(w[1], w[3]), pack_bf16(v[0], v[2]), pack_bf16(v[1], v[3])}};
}

template <bool along_k>
__device__ __forceinline__ Right right_at(const float* tile, uint32 column, uint32 k) {
  uint32 w[4], v[4];
  load_columns<along_k>(w, tile, column, k);
  load_columns<along_k>(v, tile, column, k + TERMS);
  return {{{pack_bf16(w[0], w[1]), pack_bf16(v[0], v[1])}, {pack_bf16(w[2], w[3]), pack_bf16(v[2], v[3])}}};
}

__device__ __forceinline__ void mma(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2]) {
  mma_m16n8k16_bf16(d, a, b);
}
#else
#define STEP TERMS

template <bool along_k>
__device__ __forceinline__ Left left_at(const float* tile, uint32 row, uint32 k) {
  uint32 w[4];
  load_rows<along_k>(w, tile, row, k);
  return {{to_tf32(w[0]), to_tf32(w[1]), to_tf32(w[2]), to_tf32(w[3])}};
}

template <bool along_k>
__device__ __forceinline__ Right right_at(const float* tile, uint32 column, uint32 k) {
  uint32 w[4];
  load_columns<along_k>(w, tile, column, k);
  return {{{to_tf32(w[0]), to_tf32(w[1])}, {to_tf32(w[2]), to_tf32(w[3])}}};
}

__device__ __forceinline__ void mma(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2]) {
  mma_m16n8k8_tf32(d, a, b);
}
#endif

// acc += A B over the BK terms of a stage. All rows of A are in registers when two fragments of B come, meet them, and
// go: with all columns of B there as well, registers would not suffice. Nor would they if all steps were unrolled.
template <bool a_along_k, bool b_along_k>
__device__ __forceinline__ void multiply_stage(const float* a, const float* b, Sums& acc) {
#pragma unroll 2
  for (int k = 0; k < BK; k += STEP) {
    Left left[ROWS_OF_MMA];
#pragma unroll
    for (int i = 0; i < ROWS_OF_MMA; ++i) left[i] = left_at<a_along_k>(a, warp_row() + 16 * i, k);
#pragma unroll
    for (int j = 0; j < COLUMNS_OF_MMA; j += 2) {
      Right right = right_at<b_along_k>(b, warp_column() + 8 * j, k);
#pragma unroll
      for (int i = 0; i < ROWS_OF_MMA; ++i) {
        mma(acc[i][j], left[i].a, right.b[0]);
        mma(acc[i][j + 1], left[i].a, right.b[1]);
      }
    }
  }
}

// The pipeline: while tile i is multiplied, the next STAGES - 1 are on their way. fetch(i, tile of A, tile of B) begins
// to copy tile i, for i = 0, 1, ... in order; it is called for no tile beyond the last.
//
// One barrier a tile is enough: it says both that all threads' parts of tile i have arrived and that nobody still reads
// tile i - 1, whose place the next copies go to.
template <bool a_along_k, bool b_along_k, typename Fetch>
__device__ __forceinline__ void multiply_tiles(int tiles, Sums& acc, Fetch fetch) {
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    if (i < tiles) fetch(i, stage_of(i), stage_of(i) + BM * BK);
    cp_async_commit();  // of nothing, where there is no tile: what is waited for below are numbers of groups
  }
#pragma unroll 1
  for (int i = 0; i < tiles; ++i) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    int next = i + STAGES - 1;
    if (next < tiles) fetch(next, stage_of(next), stage_of(next) + BM * BK);
    cp_async_commit();
    const float* tile = stage_of(i);
    multiply_stage<a_along_k, b_along_k>(tile, tile + BM * BK, acc);
  }
}

// Hands the sums to store(row, column, values) in pieces of VEC neighbours, row and column counted from the block's
// corner. A lane has two neighbours of each of two rows; lanes t and t ^ 1 trade, and each has four of one row.
template <typename Store>
__device__ __forceinline__ void for_each_piece(const Sums& acc, Store store) {
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < ROWS_OF_MMA; ++i)
#pragma unroll
    for (int j = 0; j < COLUMNS_OF_MMA; ++j) {
      const float(&d)[4] = acc[i][j];
      int row = warp_row() + 16 * i + g, column = warp_column() + 8 * j;
#if VEC == 4
      bool odd = t % 2;
      float x = __shfl_xor_sync(0xffffffff, odd ? d[0] : d[2], 1);
      float y = __shfl_xor_sync(0xffffffff, odd ? d[1] : d[3], 1);
      store(row + 8 * odd, column + 2 * (t - odd), odd ? make_float4(x, y, d[2], d[3]) : make_float4(d[0], d[1], x, y));
#else
#pragma unroll
      for (int e = 0; e < 4; ++e) store(row + e / 2 * 8, column + 2 * t + e % 2, d[e]);
#endif
    }
}

#if VEC == 4
typedef float4 Piece;
__device__ __forceinline__ void store_piece(float* to, Piece v) { st4(to, v); }
#else
typedef float Piece;
__device__ __forceinline__ void store_piece(float* to, Piece v) { *to = v; }
#endif
