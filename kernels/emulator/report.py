"""What a kernel's memory accesses cost a GPU, line by line, from the addresses that one block used.

The 32 lanes of a warp execute a load or store together: one *request*. What it costs depends on the 32 addresses.

Global memory is moved in sectors of 32 bytes. 32 neighbouring floats are 4 sectors; 32 floats from 32 rows of a
matrix are 32, of which seven eighths are thrown away. Neighbouring lanes should read neighbouring addresses:
*coalescing*.

Shared memory has 32 banks, each 4 bytes wide: word w is in bank w % 32. In one *wavefront* each bank delivers one word,
to all lanes that ask for it. Two lanes that want different words of one bank take two wavefronts: a *bank conflict*.
Accesses of 8 (16) bytes go by half (quarter) warps: 2 (4) wavefronts at best.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .module import Launch

SECTOR, BANKS, WORD, LANES = 32, 32, 4, 32

LEGEND = """\
A request is one load or store of a warp. Global memory moves sectors of 32 bytes; shared memory serves a request in
wavefronts, of one 4-byte word from each of its 32 banks. Beside each cost, in brackets, what the same bytes cost at
best. An arrow marks what costs more."""


@dataclass(frozen=True)
class Cost:
    """What one line of a kernel does to one kind of memory, over all warps of a block.

    line: "file:line". memory: "shared" or "global". access: "read", "write" or "atomic". bytes: of one lane's access.
    accesses: of single lanes. requests: of warps. cost, best: wavefronts (shared) or sectors (global) per request.
    """

    line: str
    memory: str
    access: str
    bytes: int
    accesses: int
    requests: int
    cost: float
    best: float


def costs(launch: Launch) -> list[Cost]:
    """The costs of each line that touches memory, in the order of the lines. ValueError if the log is not whole."""
    log = launch.accesses
    if launch.left_out:
        raise ValueError(
            f"{launch.kernel}: the block makes {len(log) + launch.left_out} accesses, of which the log holds "
            f"{len(log)}; report on a launch whose blocks do less"
        )
    if not len(log):
        return []
    request = _requests(log)
    cost, best = np.zeros(request.max() + 1), np.zeros(request.max() + 1)
    shared = log["kind"] >= 16
    for mask, model in ((shared, _wavefronts), (~shared, _sectors)):
        if mask.any():
            rows, model_cost, model_best = model(log[mask], request[mask])
            cost[rows], best[rows] = model_cost, model_best
    launch.lines.look_up(int(code) for code in np.unique(log["code"]))
    first = np.unique(request, return_index=True)[1]
    counts = np.bincount(request)
    groups: dict[tuple[str, str, str, int], list[int]] = {}
    for row, at in enumerate(first):
        code, kind, size = int(log["code"][at]), int(log["kind"][at]), int(log["bytes"][at])
        key = (launch.lines[code], "shared" if kind >= 16 else "global", ("read", "write", "atomic")[kind % 16], size)
        groups.setdefault(key, []).append(row)
    found = [
        Cost(*key, int(counts[rows].sum()), len(rows), float(cost[rows].mean()), float(best[rows].mean()))
        for key, rows in groups.items()
    ]
    return sorted(found, key=lambda c: (_split(c.line), c.memory, c.access))


def _requests(log: np.ndarray) -> np.ndarray:
    """The number of each access's request: the k-th time that the lanes of a warp execute an instruction is one.

    A cp.async is two, a read of global memory and a write to shared memory. A lane that has nothing to read still
    writes, so its times are counted by the writes.
    """
    n = len(log)
    code, kind = log["code"].astype(np.int64), log["kind"]
    copied_from = (kind == 0) & np.isin(code, np.unique(code[kind == 17]))
    by_lane = np.lexsort((np.arange(n), log["thread"], code))
    lane = code[by_lane] << 16 | log["thread"][by_lane]
    starts = np.concatenate([[True], lane[1:] != lane[:-1]])
    counted = ~copied_from[by_lane]
    before = np.cumsum(counted) - counted
    times = np.empty(n, np.int64)
    times[by_lane] = before - np.maximum.accumulate(np.where(starts, before, 0))
    rows = np.stack([code, log["thread"].astype(np.int64) // LANES, times, copied_from], 1)
    return np.unique(_keys(rows), return_inverse=True)[1].ravel()


def _keys(rows: np.ndarray) -> np.ndarray:
    """A whole number for each row, equal where rows are: to find those, NumPy sorts numbers far faster than rows."""
    keys = np.zeros(len(rows), np.int64)
    for column in rows.T:
        keys = keys * (int(column.max()) - int(column.min()) + 1) + column - column.min()
    return keys


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows, each once and in order; for each one given which it is; and how often each occurs."""
    _, first, which, times = np.unique(_keys(rows), return_index=True, return_inverse=True, return_counts=True)
    return rows[first], which.ravel(), times


def _sectors(log: np.ndarray, request: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Requests, the sectors that each touches, and the sectors that as many bytes fill."""
    address, size = log["address"].astype(np.int64), log["bytes"].astype(np.int64)
    ends = np.stack([address // SECTOR, (address + size - 1) // SECTOR])  # an access may straddle two
    touched, _, _ = _distinct(np.stack([np.concatenate([request, request]), ends.ravel()], 1))
    rows, sectors = np.unique(touched[:, 0], return_counts=True)
    places, _, _ = _distinct(np.stack([request, address, size], 1))
    bytes_used = np.bincount(places[:, 0], weights=places[:, 2])[rows]
    return rows, sectors, np.ceil(bytes_used / SECTOR)


def _wavefronts(log: np.ndarray, request: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Requests, the wavefronts that each takes, and the wavefronts without bank conflicts."""
    words = np.maximum(log["bytes"].astype(np.int64) // WORD, 1)  # 1, 2 or 4
    phase = log["thread"].astype(np.int64) % LANES // (LANES // words)
    wanted = np.concatenate(
        [
            np.stack([request, phase, log["address"].astype(np.int64) // WORD + i], 1)[words > i]
            for i in range(int(words.max()))
        ]
    )
    wanted, _, _ = _distinct(wanted)  # lanes that want the same word share it
    wanted[:, 2] %= BANKS
    banks, _, depth = _distinct(wanted)
    phases, which, _ = _distinct(banks[:, :2])
    deepest = np.zeros(len(phases), np.int64)
    np.maximum.at(deepest, which, depth)
    rows, which = np.unique(phases[:, 0], return_inverse=True)
    return rows, np.bincount(which.ravel(), weights=deepest), np.bincount(which.ravel())


def explain(launch: Launch, block: int) -> str:
    """The report of one launch, as text: every line that touches memory, and what that costs."""
    texts = source_lines(launch.module.code, launch.module.name)
    grid, threads = "x".join(map(str, launch.grid)), "x".join(map(str, launch.block))
    rows = [f"kernel {launch.kernel}, grid {grid}, {threads} threads, block {block}"]
    last_line = last_file = ""
    for cost in costs(launch):
        file, number = _split(cost.line)
        if file != last_file:
            rows += ["", file]
        if cost.line != last_line:
            rows.append(f"{number:5} | {texts.get(cost.line, '').strip()}")
        last_file, last_line = file, cost.line
        unit = "wavefronts" if cost.memory == "shared" else "sectors"
        row = (
            f"      |   {cost.memory} {cost.access:6} {cost.bytes:2} bytes x {cost.accesses:<6} "
            f"{cost.requests:5} requests of {cost.cost:4.1f} {unit} ({cost.best:.1f})"
        )
        rows.append(row + _verdict(cost))
    return "\n".join(rows)


def _verdict(cost: Cost) -> str:
    ratio = cost.cost / cost.best
    if ratio < 1.1:
        return ""
    if cost.memory == "shared":
        return f"  <-- {ratio:.2g}-way bank conflict"
    return f"  <-- {100 / ratio:.0f}% of what is moved is used"


def source_lines(code: str, name: str) -> dict[str, str]:
    """The text of each "file:line", by the #line directives of a text."""
    found, file, number = {}, name, 1
    for line in code.splitlines():
        directive = re.match(r'\s*#\s*line\s+(\d+)(?:\s+"([^"]*)")?', line)
        if directive:
            file, number = directive[2] or file, int(directive[1])
        else:
            found[f"{os.path.normpath(file)}:{number}"] = line
            number += 1
    return found


def _split(line: str) -> tuple[str, int]:
    file, _, number = line.rpartition(":")
    return file, int(number) if number.isdigit() else 0


def largest(launches: Iterable[Launch]) -> dict[str, Launch]:
    """Of the launches of each kernel, the one with the most accesses."""
    found: dict[str, Launch] = {}
    for launch in launches:
        if launch.kernel not in found or len(launch.accesses) > len(found[launch.kernel].accesses):
            found[launch.kernel] = launch
    return found
