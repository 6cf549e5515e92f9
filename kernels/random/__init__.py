"""Counter-based random numbers: pure functions of (key, counter), so any device can draw any part of a stream.

Philox 4x32-10 turns the block number `counter` (128 bits) under `key` (64 bits) into four 32-bit words, by ten
rounds of

    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)),   k0 += W0, k1 += W1

in which hi and lo are the halves of a 64-bit product, c0 is the lowest word of the counter and k0 that of the key.
Words 4b .. 4b + 3 of a draw come from block counter + b, so the first n of a longer draw are the draw of n.

    uniform  in [0, 1): float32 is the top 24 bits of word i, float64 the top 53 of word 2i + 2^32 word (2i + 1)
    normal   Box-Muller on uniforms u = 2i, v = 2i + 1: r cos(2 pi v), r sin(2 pi v) with r = sqrt(-2 log(1 - u))

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011; Box and Muller 1958.
"""
