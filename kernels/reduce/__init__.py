"""Reductions over axes; `axis` is None (all), an int or a tuple, as in NumPy."""
