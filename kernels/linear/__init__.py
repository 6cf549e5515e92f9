"""Matrix products y = a b, a (..., I, K), b (..., K, J): batches broadcast as in NumPy.

Two matrices go through the micro-kernel of the convolutions (simd.py), on the same threads. BLAS is as fast by itself,
but after a product OpenBLAS's threads wait for the next one by spinning, on the cores that the next kernel wants.
Batches of matrices, and integers, are NumPy's.
"""
