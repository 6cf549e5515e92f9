"""Elementwise arithmetic with broadcasting. NumPy's vectorised loops are the CPU kernels: nothing to win by hand."""
