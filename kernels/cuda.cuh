// What every .cu file of the engine begins with. Kernels include no headers but the project's own, which are put in
// place of their #include lines before compilation (kernels/cuda.py). On the CPU, kernels/emulator/cuda.h stands in
// for what nvcc knows by itself.

#ifndef REAL
#define REAL float  // the element type: float or double
#endif

typedef REAL real;
typedef unsigned int uint32;
typedef unsigned long long uint64;

#ifndef MINIGAN_EMULATOR
// One 128-bit access; the address must be a multiple of 16 bytes. (The emulator has its own, to report it as one.)
__device__ __forceinline__ float4 ld4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ void st4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
#endif
