// Four neighbours in memory, moved by one access of 16 bytes (VEC == 4) or by four. Which of them does not change what
// is computed, nor in which order: bits do not depend on where an array begins.

// Four neighbours, of which only the first `left` are there; for the others, zeros. With VEC == 4 it is all or none.
__device__ __forceinline__ float4 load_quad(const float* p, int left) {
#if VEC == 4
  return left > 0 ? ld4(p) : make_float4(0, 0, 0, 0);
#else
  return make_float4(left > 0 ? p[0] : 0, left > 1 ? p[1] : 0, left > 2 ? p[2] : 0, left > 3 ? p[3] : 0);
#endif
}

__device__ __forceinline__ void store_quad(float* p, int left, float4 v) {
#if VEC == 4
  if (left > 0) st4(p, v);
#else
  if (left > 0) p[0] = v.x;
  if (left > 1) p[1] = v.y;
  if (left > 2) p[2] = v.z;
  if (left > 3) p[3] = v.w;
#endif
}
