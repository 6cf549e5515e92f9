// Tensor cores, and copies from global to shared memory that nobody waits for: what has no C++ of its own, in PTX.
// Needs compute capability 8.0 (Ampere, 2020). Of each wrapper kernels/emulator/cuda.h has a twin that runs on the CPU.
//
// mma multiplies two small matrices, whose numbers lie spread over the 32 lanes of a warp ("fragments"). With g =
// lane / 4 and t = lane % 4, and B drawn as it is multiplied, a column for each n:
//
//   tf32, m16n8k8            D (16, 8) += A (16, 8) B (8, 8)             floats, of which the last 13 bits do not count
//     A  a[0] (g, t)    a[1] (g + 8, t)    a[2] (g, t + 4)    a[3] (g + 8, t + 4)
//     B  b[0] (t, g)    b[1] (t + 4, g)
//     D  d[0] (g, 2 t)  d[1] (g, 2 t + 1)  d[2] (g + 8, 2 t)  d[3] (g + 8, 2 t + 1)       float32, like the sums
//   bf16, m16n8k16           D (16, 8) += A (16, 16) B (16, 8)           two numbers in each register
//     A  a[0] (g, 2 t .. 2 t + 1)    a[1] (g + 8, ..)    a[2] (g, 2 t + 8 .. 2 t + 9)    a[3] (g + 8, ..)
//     B  b[0] (2 t .. 2 t + 1, g)    b[1] (2 t + 8 .. 2 t + 9, g)
//     D  as above
//
// Source: "Parallel Thread Execution ISA", sections on mma.m16n8k8 and m16n8k16, ldmatrix and cp.async.

// A float as tf32: rounded to 10 bits behind the first, halves away from zero, as cvt.rna.tf32 does. mma ignores the
// last 13 bits, so that half a unit of what stays need only be added. Infinities and NaN are left alone: a carry would
// make numbers of them.
__device__ __forceinline__ uint32 to_tf32(uint32 bits) {
  return fabsf(__uint_as_float(bits)) <= 3.40282347e38f ? bits + 0x1000 : bits;
}

#ifndef MINIGAN_EMULATOR

__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32 (&a)[4], const uint32 (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two floats as bfloat16, each rounded to the nearest one: `low` in the lower half of the register.
__device__ __forceinline__ uint32 pack_bf16(uint32 low, uint32 high) {
  uint32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));
  return both;
}

// Four matrices of 8 rows of 16 bytes: lane 8 i + j points at row j of matrix i, and lane 4 r + c gets word c of row r
// of each. Volatile, and a reader of memory, so that it stays behind the barrier in front of it.
__device__ __forceinline__ void ldmatrix_x4(uint32 (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"((uint32)__cvta_generic_to_shared(row))
               : "memory");
}

// Begins to copy so many bytes, 4 or 16, of which `valid` are read and the others are zeros.
template <int bytes>
__device__ __forceinline__ void cp_async(void* to, const void* from, int valid = bytes) {
  uint32 shared = (uint32)__cvta_generic_to_shared(to);
  if constexpr (bytes == 16)  // past the L1 cache, which would keep a second copy
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(bytes), "r"(valid)
                 : "memory");
}

// All copies that this thread has begun and not committed yet are a group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until of this thread's groups no more than the last `groups` are on their way. Others need a barrier, too.
template <int groups>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#endif
