"""In which precision a GPU multiplies in convolutions: a switch. Sums are float32 in all of them; tensor cores truncate
where others round.

    tf32   a factor is rounded to 10 bits behind the first: relative error 2^-11 at most. As PyTorch's convolutions do.
    bf16   to 7 bits: 2^-8 at most.
    fp32   not at all. Tensor cores cannot do this.

Arrays are float32 in memory in each case; a float64 convolution is computed in float64. GPUs older than Ampere (2020)
have no tensor cores that could do tf32 or bf16, and compute in fp32 whatever is chosen. So does the CPU.
"""

from types import TracebackType

from .. import dispatch

PRECISIONS = ("tf32", "bf16", "fp32")

_setting = "tf32"


class set_conv_precision:  # noqa: N801  # a function to its users, as torch.set_float32_matmul_precision
    """In which precision convolutions on a GPU multiply from now on; as a context, until its end. Process-wide.

    name: "tf32", "bf16" or "fp32"; ValueError for another. Steps that were captured before are recorded anew.
    """

    def __init__(self, name: str) -> None:
        if name not in PRECISIONS:
            raise ValueError(f"set_conv_precision: there is no {name!r}; choose one of {', '.join(PRECISIONS)}")
        self._before = _setting
        _set(name)

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set(self._before)


def conv_precision() -> str:
    """The name that is in force."""
    return _setting


def _set(name: str) -> None:
    global _setting
    if name != _setting:
        _setting = name
        dispatch.changed_layout()
