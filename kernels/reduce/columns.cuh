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

// What one thread has of x (outer, n, inner), C-contiguous: x[at], x[at + step], ..., `count` elements of one
// column, for blocks (width, height, depth) of threads on a grid (columns, strips); reduce/reduce.cu draws
// the mapping.
struct Column {
  long long at, step;
  int count;         // 0 for threads beyond the edge, which go on to the barriers with the others
  bool inside;       // not beyond the edge
  int c;             // which of inner, or 0 beyond the edge
  long long result;  // where results of a strip of a column belong, in an array (outer, strips, inner)
};

__device__ __forceinline__ Column my_column(int outer, int n, int inner, int rows) {
  int groups = (inner + blockDim.x - 1) / blockDim.x;  // of `width` columns each
  int c = blockIdx.x % groups * blockDim.x + threadIdx.x;
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

// Memory answers after hundreds of cycles. A thread therefore asks for AHEAD elements before it uses the
// first; left to itself, the compiler puts each load behind the store before it. (More than AHEAD would cost
// registers, and with them threads: hence #pragma unroll 1 before the loops down a column.)
#define AHEAD 4

template <typename T>
__device__ __forceinline__ void load_ahead(T (&v)[AHEAD], const T* p, long long step, int left,
                                           T missing = 0) {
#pragma unroll
  for (int k = 0; k < AHEAD; k++) v[k] = k < left ? p[k * step] : missing;
}

template <typename T>
__device__ __forceinline__ void store_ahead(const T (&v)[AHEAD], T* p, long long step, int left) {
#pragma unroll
  for (int k = 0; k < AHEAD; k++)
    if (k < left) p[k * step] = v[k];
}

// Sum over threadIdx.y of what threads of equal x and z bring, for each of them; blockDim.y is a power of
// two, and the block has at most 256 threads. Halves add up pairwise, in an order that is the same in every
// run.
__device__ __forceinline__ double column_total(double v) {
  __shared__ double parts[256];
  int stride = blockDim.x, t = (threadIdx.z * blockDim.y + threadIdx.y) * stride + threadIdx.x;
  __syncthreads();  // a total before this one has been read
  parts[t] = v;
  for (int half = blockDim.y / 2; half; half /= 2) {
    __syncthreads();  // the upper half is complete
    if (threadIdx.y < half) parts[t] += parts[t + half * stride];
  }
  __syncthreads();  // the total is there
  return parts[t - threadIdx.y * stride];
}
