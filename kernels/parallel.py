"""A loop over threads that costs little to compile, since all convolutions share one.

Numba compiles the body of a `prange`, and all that it calls, four times over: by itself, in the function that it makes
of the loop, in the wrapper around that, and in the function around the loop. So here is one `prange`, compiled once,
whose body calls whatever it is given the address of:

    @njit(cache=True)
    def product(a, b, threads):
        run(threads, task(share, (a, b)))       share(a, b, thread, threads), for each thread of so many

What Numba would see to in a `prange` is up to the caller here: arrays in the tuple are arguments of the function, since
one that it made itself might be freed before `run` reads it, and an exception in a share is lost.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import get_num_threads, njit, prange

INDEX = ir.IntType(64)
ENTRY = ir.FunctionType(ir.VoidType(), [INDEX] * 3)  # address of the arguments, thread, threads


@intrinsic
def task(context: Any, share: Any, args: Any) -> Any:
    """share(*args, thread, threads) as two addresses, of code and of arguments, for `run` in the same function.

    share: a function that `njit` or `inner` compiles, and that neither returns nor raises anything. args: a tuple.
    """
    args = types.unliteral(args)
    called = share.get_call_type(context, (*args, types.intp, types.intp), {})

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        compiled = share.dispatcher.overloads[called.args]
        context.active_code_library.add_linking_library(compiled.library)
        place = cgutils.alloca_once_value(builder, values[1])
        entry = ir.Function(builder.module, ENTRY, builder.module.get_unique_name("task"))
        entry.linkage = "internal"
        body = ir.IRBuilder(entry.append_basic_block())
        arguments = body.load(body.inttoptr(entry.args[0], place.type))
        each = cgutils.unpack_tuple(body, arguments)
        context.call_internal_no_propagate(body, compiled.fndesc, called, [*each, *entry.args[1:]])
        body.ret_void()
        addresses = [builder.ptrtoint(pointer, INDEX) for pointer in (entry, place)]
        return context.make_tuple(builder, signature.return_type, addresses)

    return types.UniTuple(types.intp, 2)(share, args), codegen


@intrinsic
def _call(context: Any, task: Any, thread: Any, threads: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        entry, arguments = cgutils.unpack_tuple(builder, values[0])
        builder.call(builder.inttoptr(entry, ENTRY.as_pointer()), [arguments, *values[1:]])
        return context.get_dummy_value()

    return types.void(task, types.intp, types.intp), codegen


@njit(parallel=True, cache=True)
def run(threads: int, task: tuple[int, int]) -> None:
    """Does the task on each of `threads` threads, and waits for all of them."""
    for thread in prange(threads):
        _call(task, np.intp(thread), threads)


# Starts the threads. Numba does so when it loads the machine code of a prange; of a caller of `run` it does not know
# that there is one in it, if `run` came from the cache when the caller was compiled.
get_num_threads()
