"""The tests of the CUDA kernels notice every barrier that is missing, short wait, and guard that does not guard."""

from cuda_mutants import instrument, mutants, mutants_of_all_files
from on_device import needs_device, only_emulated

pytestmark = [needs_device, only_emulated]

TERMS = "min(terms, first + chunk)"
PIVOT = "min(count, AHEAD * (int)blockDim.y)"
SURVIVORS = {
    ("batch_norm/batch_norm.cu", PIVOT, f"decltype({PIVOT})(count)"): "near 0 any pivot will do, and not at 1000",
    ("conv2d/conv2d.cu", "k < terms", "true"): "terms beyond a phase's own are zeros, and it saves adding them",
    ("conv2d/tensor.cu", TERMS, f"decltype({TERMS})(first + chunk)"): "tiles beyond the last term are zeros, likewise",
    ("random/random.cu", "b > (n - 1) / 4", "false"): "words are guarded one by one; this is for n where 4 b wraps",
}
"""(file, text, in place of it) of the mutants that nobody can notice, and why."""


def test_every_mutant_is_caught() -> None:
    """A mutant of the shared text is caught if one of the files that use it notices."""
    found = mutants_of_all_files()
    sites = {tuple(m[key] for key in ("file", "line", "kind", "text", "instead")) for m in found}
    caught = {tuple(m[key] for key in ("file", "line", "kind", "text", "instead")) for m in found if m["caught"]}
    kinds = [kind for _, _, kind, _, _ in sites]
    print({kind: kinds.count(kind) for kind in sorted(set(kinds))}, f"{len(sites - caught)} survived")
    assert kinds.count("barrier") > 10
    assert kinds.count("wait") == 3
    assert kinds.count("condition") > 50
    left = {(file, text, instead) for file, _, _, text, instead in sites - caught}
    assert left == set(SURVIVORS), sorted(sites - caught)


def test_what_is_mutated() -> None:
    text = """#line 1 "a.cu"
    int last = min(n, blockIdx.x + 1);  // if (this) were code
    if (i >= n || j >= m) return;
    y[i] = i < n && j < m ? x[i] : 0;
    __syncthreads();
    cp_async_commit();
    constexpr int lines = n < 32 ? 32 / n : 1;
    cp_async_wait<STAGES - 2>();
    """
    instrumented, sites = instrument(text)
    call = "min(n, blockIdx.x + 1)"
    assert [(s.line, s.kind, s.text, s.instead) for s in sites] == [
        (1, "clamp", call, f"decltype({call})(n)"),
        (1, "clamp", call, f"decltype({call})(blockIdx.x + 1)"),
        (2, "condition", "i >= n", "false"),
        (2, "condition", "j >= m", "false"),
        (3, "condition", "i < n", "true"),
        (3, "condition", "j < m", "true"),
        (4, "barrier", "__syncthreads()", "(void)0"),
        (5, "wait", "cp_async_commit()", "(void)0"),
        (7, "wait", "cp_async_wait<STAGES - 2>()", "cp_async_wait<STAGES - 2 + 1>()"),
    ]
    assert (
        f"(mutant(1) ? decltype({call})(blockIdx.x + 1) : (mutant(0) ? decltype({call})(n) : {call}));" in instrumented
    )
    assert "if ( (mutant(2) ? false : bool(i >= n))||" in instrumented
    assert "(mutant(6) ? (void)0 : __syncthreads());" in instrumented


def test_a_guard_that_is_missing_is_noticed() -> None:
    """The tool itself: what it says of a kernel that it knows."""
    found = {m["text"]: m["caught"] for m in mutants("linear/naive.cu")}
    assert "out of bounds" in found["t >= batches * I * J"]
