"""Matrix products y = a b, a (..., I, K), b (..., K, J): batches broadcast as in NumPy.

Two matrices go through the micro-kernel of the convolutions (simd.py), on the same threads. BLAS is quicker by itself,
but it has threads of its own, and in a step they and those of the kernels wait for the same cores (docs/design.md).
Batches of matrices, and integers, are NumPy's.
"""
