// Long sums down the columns of an array, for reductions and batch norm: reduce.cu draws how threads map to them.

// A long sum, right to the last place: `lost` collects, exactly, what rounding takes from `total` at each
// step (Knuth's TwoSum). Two floats so hold what a double would, which most GPUs add at 1/64 of a float's
// speed.
template <typename T>
struct Sum {
  T total = 0, lost = 0;

  __device__ __forceinline__ void add(T v) {
    T t = total + v, z = t - total;
    lost += (total - (t - z)) + (v - z);
    total = t;
  }

  __device__ __forceinline__ double value() const {
    double sum = (double)total + (double)lost;
    return sum == sum ? sum : (double)total;  // behind an infinite total `lost` is NaN
  }
};

#ifndef VECTOR
#define VECTOR 1
#endif

// What one thread has of x (outer, n, inner), C-contiguous: `lanes` neighbouring columns, which one access moves,
// x[at + k step] to x[at + k step + lanes - 1] for k < count. Blocks are (width, height, depth) threads on a grid
// (columns, strips); reduce/reduce.cu draws the mapping. lanes divides inner.
struct Column {
  long long at, step;
  int count;         // 0 for threads beyond the edge, which go on to the barriers with the others
  bool inside;       // not beyond the edge
  int c;             // the first of them, of inner; or 0 beyond the edge
  long long result;  // where results of a strip of a column belong, in an array (outer, strips, inner)
};

template <int lanes>
__device__ __forceinline__ Column my_column(int outer, int n, int inner, int rows) {
  int groups = (inner / lanes + blockDim.x - 1) / blockDim.x;  // of `width` threads each
  int c = (blockIdx.x % groups * blockDim.x + threadIdx.x) * lanes;
  int o = blockIdx.x / groups * blockDim.z + threadIdx.z;
  int first = blockIdx.y * rows + threadIdx.y, stop = min((uint32)n, (blockIdx.y + 1) * rows);
  bool inside = c < inner && o < outer;
  Column column;
  column.at = ((long long)o * n + first) * inner + c;
  column.step = (long long)blockDim.y * inner;
  column.count = inside ? (stop - first + blockDim.y - 1) / blockDim.y : 0;
  column.inside = inside;
  column.c = inside ? c : 0;
  column.result = ((long long)o * gridDim.y + blockIdx.y) * inner + c;
  return column;
}

// `lanes` neighbours: by one access of 16 bytes where they are four floats.
template <typename T, int lanes>
__device__ __forceinline__ void load_lanes(T (&v)[lanes], const T* p) {
  if constexpr (lanes == 4) {
    float4 q = ld4(p);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
  } else {
#pragma unroll
    for (int j = 0; j < lanes; j++) v[j] = p[j];
  }
}

template <typename T, int lanes>
__device__ __forceinline__ void store_lanes(const T (&v)[lanes], T* p) {
  if constexpr (lanes == 4) {
    st4(p, make_float4(v[0], v[1], v[2], v[3]));
  } else {
#pragma unroll
    for (int j = 0; j < lanes; j++) p[j] = v[j];
  }
}

// Memory answers after hundreds of cycles. A thread therefore asks for AHEAD rows before it uses the first;
// left to itself, the compiler puts each load behind the store before it. (More would cost registers, and with
// them threads: hence #pragma unroll 1 before the loops down a column.)
#define AHEAD 4

// Of the next `ahead` rows those that are left, and `missing` in place of others.
template <typename T, int ahead, int lanes>
__device__ __forceinline__ void load_ahead(T (&v)[ahead][lanes], const T* p, long long step, int left,
                                           const T (&missing)[lanes]) {
#pragma unroll
  for (int k = 0; k < ahead; k++) {
#pragma unroll
    for (int j = 0; j < lanes; j++) v[k][j] = missing[j];
    if (k < left) load_lanes(v[k], p + k * step);
  }
}

template <typename T, int ahead, int lanes>
__device__ __forceinline__ void load_ahead(T (&v)[ahead][lanes], const T* p, long long step, int left) {
  const T zeros[lanes] = {};
  load_ahead(v, p, step, left, zeros);
}

template <typename T, int ahead, int lanes>
__device__ __forceinline__ void store_ahead(const T (&v)[ahead][lanes], T* p, long long step, int left) {
#pragma unroll
  for (int k = 0; k < ahead; k++)
    if (k < left) store_lanes(v[k], p + k * step);
}

// Of each lane: the sum over threadIdx.y of what threads of equal x and z bring, for each of them; blockDim.y
// is a power of two, and the block has at most 256 threads. Halves add up pairwise, in an order that is the
// same in every run; the lanes go together, so that they share the barriers.
template <int lanes>
__device__ __forceinline__ void column_totals(double (&v)[lanes]) {
  __shared__ double parts[lanes][256];
  int stride = blockDim.x, t = (threadIdx.z * blockDim.y + threadIdx.y) * stride + threadIdx.x;
  __syncthreads();  // a total before this one has been read
#pragma unroll
  for (int j = 0; j < lanes; j++) parts[j][t] = v[j];
  for (int half = blockDim.y / 2; half; half /= 2) {
    __syncthreads();  // the upper half is complete
    if (threadIdx.y < half) {
#pragma unroll
      for (int j = 0; j < lanes; j++) parts[j][t] += parts[j][t + half * stride];
    }
  }
  __syncthreads();  // the total is there
#pragma unroll
  for (int j = 0; j < lanes; j++) v[j] = parts[j][t - threadIdx.y * stride];
}

__device__ __forceinline__ double column_total(double v) {
  double of[1] = {v};
  column_totals(of);
  return of[0];
}
