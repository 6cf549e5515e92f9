"""The emulated device's memory: arrays that refuse what cupy.ndarray refuses.

On a GPU the host cannot touch an array's elements: it must copy them (`asnumpy`), and must copy its own to the device
before the two can meet. NumPy arrays would let all of this pass in silence. So the emulated device has an array type of
its own, a NumPy array in a box that opens only here: operators, ufuncs and NumPy functions take boxes and scalars,
never a box beside a NumPy array, and `numpy.asarray(box)` raises. What runs on these arrays also runs on CuPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

UFUNC_METHODS = ("__call__", "at")
"""Of the methods of ufuncs, those that CuPy has as well."""


class ndarray(NDArrayOperatorsMixin):  # noqa: N801 - CuPy's and NumPy's name
    """An array in the emulated device's memory. `host` is its NumPy array, for the emulator alone."""

    __slots__ = ("host",)

    def __init__(self, host: np.ndarray[Any, Any]) -> None:
        self.host = host

    # ---- what it is --------------------------------------------------------------------------------------------

    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    dtype = property(lambda self: self.host.dtype)
    strides = property(lambda self: self.host.strides)

    @property
    def flags(self) -> SimpleNamespace:
        """CuPy knows three of NumPy's flags, and no read-only arrays."""
        flags = self.host.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata)

    @property
    def data(self) -> SimpleNamespace:
        """`data.ptr` is the address."""
        return SimpleNamespace(ptr=self.host.ctypes.data)

    def __len__(self) -> int:
        return len(self.host)

    def __repr__(self) -> str:
        return repr(self.host)

    # ---- the host reads: always a copy of one number or of everything, and always asked for --------------------

    def get(self) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return np.array(self.host)

    def item(self) -> Any:
        return self.host.item()

    def __float__(self) -> float:
        return float(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one.")

    # ---- the device computes ------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> ndarray:
        return _box(self.host[_open_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")  # which CuPy makes of lists
        self.host[_open_index(index)] = _open(value)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method not in UFUNC_METHODS:
            return NotImplemented
        out = kwargs.pop("out", None)
        if out is not None:
            kwargs["out"] = tuple(_open(o) for o in out)
        with np.errstate(all="ignore"):  # a GPU gives no warnings
            result = getattr(ufunc, method)(*map(_open, inputs), **kwargs)
        if out is not None:
            return out[0]
        return None if result is None else _box(result)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ not in FUNCTIONS:
            raise TypeError(f"numpy.{function.__name__} is not among the functions that device arrays support")
        with np.errstate(all="ignore"):
            result = function(*_open_all(args), **{key: _open(value) for key, value in kwargs.items()})
        if kwargs.get("out") is not None:
            return kwargs["out"]
        return None if result is None else _box(result)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return _box(self.host.astype(dtype, copy=copy))

    def copy(self) -> ndarray:
        return _box(self.host.copy())

    def fill(self, value: Any) -> None:
        self.host.fill(value)

    def reshape(self, *shape: Any) -> ndarray:
        return _box(self.host.reshape(*shape))

    def ravel(self) -> ndarray:
        return _box(self.host.ravel())

    def transpose(self, *axes: Any) -> ndarray:
        return _box(self.host.transpose(*axes))

    @property
    def T(self) -> ndarray:  # noqa: N802
        return _box(self.host.T)

    def view(self, dtype: Any = None) -> ndarray:
        return _box(self.host.view() if dtype is None else self.host.view(dtype))

    def sum(self, *args: Any, **kwargs: Any) -> Any:
        return np.sum(self, *args, **kwargs)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        return np.mean(self, *args, **kwargs)

    def max(self, *args: Any, **kwargs: Any) -> Any:
        return np.max(self, *args, **kwargs)

    def min(self, *args: Any, **kwargs: Any) -> Any:
        return np.min(self, *args, **kwargs)

    def any(self) -> ndarray:
        return _box(self.host.any())

    def all(self) -> ndarray:
        return _box(self.host.all())


FUNCTIONS = {
    "amax", "amin", "broadcast_to", "clip", "concatenate", "copyto", "empty_like", "full_like", "isfinite", "max",
    "may_share_memory", "mean", "min", "ones_like", "reshape", "shares_memory", "squeeze", "stack", "sum",
    "transpose", "where", "zeros_like",
}  # fmt: skip
"""NumPy functions that hand over to CuPy's of that name; a test compares the list with CuPy, where it is installed."""


def _box(result: Any) -> Any:
    """Results live on the device, those of a single number too: CuPy has no scalars."""
    return ndarray(np.asarray(result)) if isinstance(result, (np.ndarray, np.generic)) else result


def _open(value: Any) -> Any:
    """The NumPy array in a box. A NumPy array proper is on the host, and the device cannot read it."""
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: an array of shape {value.shape} is on the host")
    return _open_all(value) if isinstance(value, (list, tuple)) else value


def _open_all(values: Any) -> Any:
    return type(values)(_open(value) for value in values)


def _open_index(index: Any) -> Any:
    """Indices may be on the host: CuPy copies them to the device."""
    if isinstance(index, tuple):
        return tuple(_open_index(i) for i in index)
    return index.host if isinstance(index, ndarray) else index


# ---- the module: what kernels/ asks of an array module, under NumPy's names ------------------------------------


def array(values: Any, dtype: Any = None, order: Any = "K") -> ndarray:
    """A copy on the device."""
    host = values.host if isinstance(values, ndarray) else values
    return ndarray(np.array(host, dtype=dtype, order=order))


def asnumpy(values: ndarray) -> np.ndarray[Any, Any]:
    """A copy on the host."""
    return values.get()


def ascontiguousarray(values: ndarray) -> ndarray:
    """The array itself, or a C-contiguous copy."""
    return values if values.host.flags.c_contiguous else ndarray(np.ascontiguousarray(values.host))


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    """Memory that nobody has written to: poisoned with NaN, so that a kernel that leaves a hole is found."""
    n = np.empty(shape, dtype).nbytes
    return ndarray(np.frombuffer(b"\xff" * n, dtype).reshape(shape).copy())


def zeros(shape: Any, dtype: Any = np.float64) -> ndarray:
    return ndarray(np.zeros(shape, dtype))


def arange(n: int, dtype: Any = None) -> ndarray:
    return ndarray(np.arange(n, dtype=dtype))


def argsort(values: ndarray) -> ndarray:
    """The order that sorts the last axis; stable, as CuPy's always is."""
    return ndarray(np.argsort(values.host, kind="stable"))
