// What every kernel of the trio is told.

struct Sizes {  // x (N, H, W, C), y (N, OH, OW, O), w (KH, KW, C, O), stride (SH, SW), padding (PH, PW)
  int N, H, W, C, OH, OW, O, KH, KW, SH, SW, PH, PW;
};
