// Where the rows and terms of a convolution, seen as a matrix product, lie in memory. conv2d.cu explains the product.
// Macro: BK, the terms of a tile.

// What a row's pixel reads and writes: tap (0, 0) meets pixel (h, w) of the image read, whose number `from`
// is its first; `to` is where its own channels lie in the result. Beyond the last pixel h lies far above
// every image, and to is -1.
struct Pixel {
  int h, w, from, to;
};

#define NOWHERE {-(1 << 29), 0, 0, -1}

// Term k of a row, (u KW + v) C + c, taken apart.
struct Tap {
  int u, v, c;
};

__device__ __forceinline__ Tap tap_of(int k, int KW, int C) { return {k / C / KW, k / C % KW, k % C}; }

// The tap BK terms on. C is seldom less than BK: this is quicker than to divide.
__device__ __forceinline__ void advance(Tap& tap, int KW, int C) {
  tap.c += BK;
  while (tap.c >= C) {
    tap.c -= C;
    if (++tap.v == KW) tap.v = 0, ++tap.u;
  }
}

// x's pixels as pixel m = (n OH + i) OW + j of y meets them.
__device__ __forceinline__ Pixel pixel_of_y(int m, const Sizes& s) {
  if (m >= s.N * s.OH * s.OW) return NOWHERE;
  int j = m % s.OW, i = m / s.OW % s.OH, n = m / s.OW / s.OH;
  int h = s.SH * i - s.PH, w = s.SW * j - s.PW;
  return {h, w, ((n * s.H + h) * s.W + w) * s.C, m * s.O};
}

// The pixels of x whose (h, w) = (SH p + down, SW q + right), and which taps reach them.
struct Phase {
  int down, right;            // of the phase
  int rows, columns;          // p < rows, q < columns
  int u, v;                   // the first tap that reaches them; the others are SH and SW further each
  int taps_down, taps_right;  // how many do
};

__device__ __forceinline__ Phase phase_of(int number, const Sizes& s) {
  Phase f;
  f.down = number / s.SW, f.right = number % s.SW;
  f.rows = (s.H - f.down + s.SH - 1) / s.SH, f.columns = (s.W - f.right + s.SW - 1) / s.SW;
  f.u = (f.down + s.PH) % s.SH, f.v = (f.right + s.PW) % s.SW;
  f.taps_down = (s.KH - f.u + s.SH - 1) / s.SH, f.taps_right = (s.KW - f.v + s.SW - 1) / s.SW;
  return f;
}

// y's pixels as pixel m = (n rows + p) columns + q of a phase of x meets them: h = SH p + down gets from tap
// u + SH t what lies at i = (h + PH - u - SH t) / SH = p + (down + PH) / SH - t.
__device__ __forceinline__ Pixel pixel_of_x(int m, const Phase& f, const Sizes& s) {
  if (m >= s.N * f.rows * f.columns) return NOWHERE;
  int q = m % f.columns, p = m / f.columns % f.rows, n = m / f.columns / f.rows;
  int i = p + (f.down + s.PH) / s.SH, j = q + (f.right + s.PW) / s.SW;
  int h = s.SH * p + f.down, w = s.SW * q + f.right;
  return {i, j, ((n * s.OH + i) * s.OW + j) * s.O, ((n * s.H + h) * s.W + w) * s.C};
}
