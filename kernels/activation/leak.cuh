// An activation and its derivative, of a ReLU (slope 0), a leaky one, or none (1). z's sign decides, and NaN
// stays NaN.
__device__ __forceinline__ real leak(real z, real slope) {
  if (slope == 0) return z <= 0 ? slope : z;  // slope * z would be NaN at -inf
  return z > 0 ? z : slope * z;
}

__device__ __forceinline__ real leak_backward(real g, real z, real slope) {
  if (slope == 0) return z > 0 ? g : slope;
  return z > 0 ? g : slope * g;
}

// A bias and an activation, of four channels.
__device__ __forceinline__ float4 leak_of_sum(float4 v, float4 b, float slope) {
  return make_float4(leak(v.x + b.x, slope), leak(v.y + b.y, slope), leak(v.z + b.z, slope), leak(v.w + b.w, slope));
}
