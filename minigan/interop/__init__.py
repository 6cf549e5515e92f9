"""Doors to other libraries, one module each. None of them is a dependency of minigan."""
