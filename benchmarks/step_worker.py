"""A process of benchmarks/train_step.py: python step_worker.py TASK

TASK is JSON, "kind" and what that function below needs. Whatever is answered is a line of JSON. A contender says that
its nets are built and waits for a line; then it says what it found in its first steps; and then it reads numbers
of steps, takes so many, and answers with milliseconds and minor page faults of one. It ends with its standard input.
"""

import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from step_rows import ROWS, Row

FIRST = 5  # steps, in which the memory is measured, and minigan records
WARM = 3  # more steps
INSIDE = 5  # steps that are profiled
REPLAYS = 1000  # in which page faults are counted, if they take no longer than they may


def main(task: dict[str, Any]) -> None:
    kinds: dict[str, Callable[..., None]] = {
        "machine": machine, "check": check, "ours": ours, "inside": inside, "torch": torch
    }  # fmt: skip
    kinds[task.pop("kind")](**task)


def answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


def wait() -> None:
    """Until it is this process's turn: all may load and build at once, but take their first steps one by one."""
    answer("built")
    sys.stdin.readline()


def machine(threads: int | None) -> None:
    """Answers machine.describe(...); without `threads`, of all that Numba has."""
    import machine
    import numba

    answer(machine.describe(threads or numba.config.NUMBA_NUM_THREADS))


def check(rows: Sequence[str], threads: int, with_torch: bool) -> None:
    """For each row answers [our losses, PyTorch's], from the same weights, images, z and points.

    Of a GAN in one step, where G meets the updated D; of a critic in two, so that its update shows, too. Further on the
    differences of rounding grow. Without PyTorch ours alone. In any case Numba's cache knows all kernels afterwards.
    RuntimeError if replayed steps do not find the very losses of steps that are not.
    """
    if with_torch:
        import rival
        import torch_steps

        rival.torch.set_num_threads(threads)
    import numba
    from steps import Ours, latent, mix

    from minigan import manual_seed
    from minigan.interop.torch import to_torch

    numba.set_num_threads(threads)

    def started(row: Row, capture: bool) -> Ours:
        manual_seed(0)
        return Ours(row, capture=capture)

    for row in map(ROWS.__getitem__, rows):
        mine, eager = (started(row, capture) for capture in (True, False))
        found: list[list[float]] = []
        compared = 1 if row.objective == "gan" else 2

        def losses(step: Callable[[], list[float]], steps: int = compared) -> list[float]:
            return [loss for _ in range(steps) for loss in step()]

        if with_torch:

            def draws(draw: Callable[..., Any]) -> Callable[..., Any]:
                return lambda shape: rival.torch.from_numpy(draw(shape))

            other = torch_steps.Rival(row, normal=draws(latent().normal), uniform=draws(mix().uniform))
            other.G.load_state_dict(to_torch(mine.G))
            other.D.load_state_dict(to_torch(mine.D))
            found.append(losses(other.step))
        replayed, others = losses(mine.step, FIRST), losses(eager.step, FIRST)
        if replayed != others:
            raise RuntimeError(f"replayed steps find losses {replayed} and others {others}; nothing was timed")
        answer([others[: compared * len(mine.players)], *found])


def ours(row: str, threads: int, capture: bool) -> None:
    """First answers {"peak_mb"}."""
    import numba
    from steps import Ours

    numba.set_num_threads(threads)
    step = Ours(ROWS[row], capture=capture).step
    wait()
    peak = peak_mb(step)
    timed(step, WARM)
    answer({"peak_mb": peak})
    take_turns(step)


def inside(row: str, threads: int, capture: bool, seconds: float) -> None:
    """Answers {"arrays_mb", "outside", "replays", "replay_faults"} of ours, as step_report.py's FIELDS say."""
    import numba
    from steps import Ours

    from minigan import profile

    numba.set_num_threads(threads)
    step = Ours(ROWS[row], capture=capture).step
    tracemalloc.start()
    for _ in range(FIRST):
        step()
    tracemalloc.reset_peak()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    step()
    with redirect_stdout(StringIO()), profile() as p:
        for _ in range(INSIDE):
            step()
    faults, replays, end = minor_faults(), 0, time.perf_counter() + seconds
    while capture and replays < REPLAYS and time.perf_counter() < end:
        step()
        replays += 1
    answer({
        "arrays_mb": peak / 1e6,
        "outside": 1 - sum(kernel.seconds for kernel in p.kernels) / p.wall,
        "replays": replays,
        "replay_faults": None if faults is None else (minor_faults() or 0) - faults,
    })  # fmt: skip


def torch(row: str, threads: int, options: dict[str, Any]) -> None:
    """First answers {"peak_mb", "optimizer", "ms"}. Tries all optimizers where `options` of Rival name none."""
    import rival
    from torch_steps import Rival

    rival.torch.set_num_threads(threads)
    leanest = "for-loop" if ROWS[row].clip else "fused"  # whose updates make no temporary arrays
    contender = Rival(ROWS[row], **{"optimizer": leanest, **options})
    wait()
    peak = peak_mb(contender.step)
    optimizer = options.get("optimizer") or contender.take_fastest_optimizer()
    contender.step()
    ms = min(timed(contender.step, 1)["ms"] for _ in range(WARM))
    answer({"peak_mb": peak, "optimizer": optimizer, "ms": ms})
    take_turns(contender.step)


def take_turns(step: Callable[[], object]) -> None:
    for line in sys.stdin:
        answer(timed(step, int(line)))


def timed(step: Callable[[], object], n: int) -> dict[str, Any]:
    """Milliseconds and minor page faults of one of n steps."""
    faults, start = minor_faults(), time.perf_counter_ns()
    for _ in range(n):
        step()
    ms = (time.perf_counter_ns() - start) / 1e6 / n
    return {"ms": ms, "faults": None if faults is None else ((minor_faults() or 0) - faults) / n}


def minor_faults() -> int | None:
    """Of this process, until now; None where the system does not count them."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


# ---- memory ------------------------------------------------------------------------------------------------------


def peak_mb(step: Callable[[], object]) -> float | None:
    """MB by which the first steps' highest use of memory exceeds what is in use now; None where it cannot be told."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is in use: `man 5 proc`
    before = memory("VmRSS")
    for _ in range(FIRST):
        step()
    after = memory("VmHWM")
    return None if before is None or after is None else (after - before) / 1e6


def memory(field: str) -> int | None:
    """Bytes, a field of /proc/self/status; elsewhere the high-water mark in its place."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
        return int(values[0]) * 1024 if values else None
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
