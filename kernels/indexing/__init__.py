"""Moving elements without arithmetic: take and its adjoint scatter_add, concatenation, padding, pooling's index."""
