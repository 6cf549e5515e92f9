"""Matrix products. On the CPU they are BLAS through NumPy: no kernel of ours would be faster or clearer."""
