// One step of an optimizer over ALL parameters of a net in ONE launch.
//
// A net has dozens of parameters, most of them tiny, and starting a kernel takes longer than updating a
// thousand numbers. So the grid is laid over the parameters one behind the other, each cut into parts of PART
// elements:
//
//    parameter     0                         1     2
//                  [.......................] [...] [............]
//    block (part)  |   0   |   1   |   2  |  | 3 | |   4   |  5 |
//
// Two small tables in device memory tell a block what is its own. parts[3 b ..] = parameter, first element,
// number of elements of block b; p, g, m, ... = the addresses of the parameters' arrays. All threads of a
// block read the same entries: one load, broadcast.
//
// Every element is then loaded once, updated in registers and stored once: 28 bytes for Adam in float32,
// about 20 operations. That is far below what a GPU computes while it moves 28 bytes, so the time is that of
// the memory. Neighbouring threads take neighbouring elements (coalesced: a warp reads 32 floats, 128 bytes,
// at once). Wider loads, ld4, would need every array to begin at a multiple of 16 bytes, and a parameter may
// be a piece of a larger array.
//
// What changes from step to step is read from device memory, too: the learning rate lr[0], and for each
// parameter its step count. A step that was recorded as a CUDA graph is replayed with the arguments of the
// recording, and the memory behind them is what can change.
//
// gate[0] is a number, such as the loss, without which nothing moves: where it is NaN or infinite, all threads
// return at once. So a graph need not stop half-way for the host to look at the loss. It is read as lr is, by
// one broadcast load. A null pointer is no gate.

#include "../cuda.cuh"

#define THREADS 256
#define BLOCKS 4  // a multiprocessor, at least: left alone the compiler aims at more, and spills registers

struct Part {
  int parameter, begin, end;
};

__device__ __forceinline__ Part part_of_block(const int* parts) {
  const int* row = parts + 3 * blockIdx.x;
  return {row[0], row[1], row[1] + row[2]};
}

// The array of a parameter: an address is all that the host can put into a table.
__device__ __forceinline__ real* array_at(const uint64* table, int parameter) {
  return reinterpret_cast<real*>(table[parameter]);
}

// Infinity - infinity is NaN, and NaN is not equal to anything.
__device__ __forceinline__ bool open(const real* gate) { return !gate || gate[0] - gate[0] == real(0); }

// Without momentum: p -= lr (g + decay p).
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    sgd(const int* parts, const uint64* ps, const uint64* gs, const real* lr, const real* gate, real decay) {
  if (!open(gate)) return;
  const Part part = part_of_block(parts);
  real* p = array_at(ps, part.parameter);
  const real* g = array_at(gs, part.parameter);
  const real rate = lr[0];
  for (int i = part.begin + threadIdx.x; i < part.end; i += THREADS) p[i] -= rate * (g[i] + decay * p[i]);
}

// b = momentum b + g + decay p; p -= lr b. The buffer begins at 0.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    sgd_momentum(const int* parts, const uint64* ps, const uint64* gs, const uint64* buffers, const real* lr,
                 const real* gate, real momentum, real decay) {
  if (!open(gate)) return;
  const Part part = part_of_block(parts);
  real* p = array_at(ps, part.parameter);
  const real* g = array_at(gs, part.parameter);
  real* buffer = array_at(buffers, part.parameter);
  const real rate = lr[0];
  for (int i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
    const real weight = p[i];
    const real step = momentum * buffer[i] + (g[i] + decay * weight);
    buffer[i] = step;
    p[i] = weight - rate * step;
  }
}

// rest = 1 - alpha, which the host computes in double precision.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    rmsprop(const int* parts, const uint64* ps, const uint64* gs, const uint64* squares, const real* lr,
            const real* gate, real alpha, real rest, real eps, real decay) {
  if (!open(gate)) return;
  const Part part = part_of_block(parts);
  real* p = array_at(ps, part.parameter);
  const real* g = array_at(gs, part.parameter);
  real* square = array_at(squares, part.parameter);
  const real rate = lr[0];
  for (int i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
    const real weight = p[i];
    const real gradient = g[i] + decay * weight;
    const real mean = alpha * square[i] + rest * gradient * gradient;
    square[i] = mean;
    p[i] = weight - rate * gradient / (sqrt(mean) + eps);
  }
}

// 1 - beta^t. In float32 the power of 0.999 is so near to 1 that the difference would lose most of its
// digits; expm1(x) = e^x - 1 keeps them. log_beta is -infinity for beta = 0.
__device__ __forceinline__ real bias_correction(real log_beta, real t) { return -expm1(t * log_beta); }

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    adam(const int* parts, const uint64* ps, const uint64* gs, const uint64* ms, const uint64* vs,
         const real* lr, const real* steps, const real* gate, real beta1, real rest1, real log_beta1,
         real beta2, real rest2, real log_beta2, real eps, real decay) {
  if (!open(gate)) return;
  const Part part = part_of_block(parts);
  real* p = array_at(ps, part.parameter);
  const real* g = array_at(gs, part.parameter);
  real* m = array_at(ms, part.parameter);
  real* v = array_at(vs, part.parameter);
  const real t = steps[part.parameter];
  const real rate = lr[0] / bias_correction(log_beta1, t);
  const real scale = 1 / sqrt(bias_correction(log_beta2, t));
  for (int i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
    const real weight = p[i];  // once: behind a store to m the compiler would have to load it again
    const real gradient = g[i] + decay * weight;
    const real mean = beta1 * m[i] + rest1 * gradient;
    const real square = beta2 * v[i] + rest2 * gradient * gradient;
    m[i] = mean;
    v[i] = square;
    p[i] = weight - rate * mean / (sqrt(square) * scale + eps);
  }
}

// The comparisons let a NaN through, as NumPy's clip does; fmin and fmax would make c of it.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    clip_weights(const int* parts, const uint64* ps, const real* gate, real c) {
  if (!open(gate)) return;
  const Part part = part_of_block(parts);
  real* p = array_at(ps, part.parameter);
  for (int i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
    p[i] = p[i] < -c ? -c : p[i] > c ? c : p[i];
  }
}

// A moving average of the values: average = value + decay (average - value). In this form, equal ones stay
// equal whatever the rounding.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    moving_average(const int* parts, const uint64* averages, const uint64* values, const real* decay,
                   const real* gate) {
  if (!open(gate)) return;
  const Part part = part_of_block(parts);
  real* average = array_at(averages, part.parameter);
  const real* value = array_at(values, part.parameter);
  const real kept = decay[0];
  for (int i = part.begin + threadIdx.x; i < part.end; i += THREADS) {
    const real x = value[i];
    average[i] = x + kept * (average[i] - x);
  }
}
