"""Every .cu file compiles for every architecture, within its registers and without spills. Needs no GPU."""

import re
from pathlib import Path

import cubins
import pytest

from minigan.kernels import cuda, nvrtc

try:
    KNOWN = nvrtc.architectures()
except nvrtc.CompilerNotFound as missing:
    pytest.skip(str(missing), allow_module_level=True)

SOURCES = {source.file.relative_to(cuda.KERNELS_FOLDER).as_posix(): source for source in cuda.sources()}
CASES = [
    pytest.param(name, number, arch, id=f"{name}-{'-'.join(map(str, variant.values()))}-{arch}")
    for name, source in SOURCES.items()
    for number, variant in enumerate(source.variants)
    for arch in cubins.ARCHITECTURES
    if source.minimum <= arch and arch in KNOWN
]
SMALL = (
    'extern "C" __global__ void scale(float* x, int n) { int i = threadIdx.x; if (i < n) x[i] *= 2; }\n'
    'extern "C" __global__ void clear(float* x, int n) { int i = threadIdx.x; if (i < n) x[i] = 0; }'
)
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) hoard(const float* x, float* y) {
  float all[64];
#pragma unroll
  for (int i = 0; i < 64; i++) all[i] = x[64 * threadIdx.x + i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; i++) y[64 * threadIdx.x + i] = all[63 - i] * all[i];
}"""


def compiled(name: str, number: int, arch: int) -> nvrtc.Compiled:
    return cubins.compiled(SOURCES[name], number, arch)


def test_every_file_has_its_host_code() -> None:
    files = {file.relative_to(cuda.KERNELS_FOLDER).as_posix() for file in cuda.KERNELS_FOLDER.glob("*/*.cu")}
    assert files == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_every_kernel_has_a_budget_and_an_example(name: str) -> None:
    source = SOURCES[name]
    assert set(source.registers) == set(source.examples) == set(source.kernels)
    assert source.variants


@pytest.mark.parametrize(("name", "number", "arch"), CASES)
def test_kernels_compile_within_their_registers(name: str, number: int, arch: int) -> None:
    source, result = SOURCES[name], compiled(name, number, arch)
    assert set(result.registers) == set(source.kernels)
    assert not any(result.spills.values())
    over = {kernel: used for kernel, used in result.registers.items() if used > source.registers[kernel]}
    assert not over, f"more registers than {name} allows: {over}"


@pytest.mark.parametrize("name", ["conv2d/conv2d.cu", "linear/linear.cu"])
@pytest.mark.parametrize("arch", [75, 90])
def test_tiles_are_moved_by_wide_loads_and_multiplied_in_registers(name: str, arch: int) -> None:
    wide = [number for number, variant in enumerate(SOURCES[name].variants) if variant.get("VEC") == 4]
    assert wide
    for number in wide:
        try:
            instructions = nvrtc.instructions(compiled(name, number, arch).cubin)
        except nvrtc.CompilerNotFound as missing:
            pytest.skip(str(missing))
        tiled = [kernel for kernel in instructions if kernel.endswith("_tiled")]
        assert tiled
        for kernel in tiled:
            found = instructions[kernel]
            for start in ("LDG.E.128", "FFMA"):
                assert any(instruction.startswith(start) for instruction in found), (kernel, start)
            assert any(instruction.startswith("LDS") and "128" in instruction for instruction in found), kernel
            assert not any(instruction.startswith(("LDL", "STL")) for instruction in found), kernel


STREAMS = {
    "activation/activation.cu": ("bias_act", "bias_act_backward"),
    "batch_norm/batch_norm.cu": ("strip_moments", "apply", "strip_gradients", "input_gradient"),
}
"""Kernels that are as fast as memory; two of them write next to nothing."""


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("arch", [75, 80, 90, 100])
def test_images_are_streamed_by_wide_loads_and_stores(name: str, arch: int) -> None:
    (number,) = [number for number, variant in enumerate(SOURCES[name].variants) if variant.get("VECTOR") == 4]
    if arch not in KNOWN:
        pytest.skip(f"the compiler does not know sm_{arch}")
    try:
        instructions = nvrtc.instructions(compiled(name, number, arch).cubin)
    except nvrtc.CompilerNotFound as missing:
        pytest.skip(str(missing))
    for kernel in STREAMS[name]:
        found = instructions[kernel]
        wide = [sum(n for i, n in found.items() if i.startswith(f"{start}.E.128")) for start in ("LDG", "STG")]
        assert wide[0] >= 4, kernel  # that many are under way
        assert wide[1] >= (0 if kernel.startswith("strip") else 4), kernel
        assert not any(instruction.startswith(("LDL", "STL")) for instruction in found), kernel
        single = sum(n for i, n in found.items() if re.match(r"(LDG|STG)\.E(\.SYS|\.CONSTANT)*$", i))
        assert single <= (4 if kernel == "strip_gradients" else 0), kernel  # rstd, once at the end


# ---- the compiler itself ---------------------------------------------------------------------------------------


@pytest.fixture(params=["NVRTC", "nvcc"])
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both that may be there, each by itself."""
    if request.param == "nvcc":
        monkeypatch.setattr(nvrtc, "_library", lambda: None)
    try:
        found = nvrtc.version()
    except nvrtc.CompilerNotFound:
        pytest.skip(f"there is no {request.param}")
    if not found.startswith(request.param):
        pytest.skip(f"there is no {request.param}")
    return found


@pytest.mark.usefixtures("compiler")
def test_what_is_known_of_a_cubin() -> None:
    result = nvrtc.compile_text(SMALL, cuda.options({}), 90)
    assert result.cubin[:4] == b"\x7fELF"
    assert set(result.registers) == {"scale", "clear"}
    assert all(4 <= used <= 16 for used in result.registers.values())
    assert result.spills == {"scale": 0, "clear": 0}
    assert 90 in nvrtc.architectures()


@pytest.mark.usefixtures("compiler")
def test_a_spill_is_an_error() -> None:
    with pytest.raises(nvrtc.CompileError, match=r"Registers are spilled to local memory in function 'hoard'"):
        nvrtc.compile_text(SPILLING, cuda.options({}), 90)


@pytest.mark.usefixtures("compiler")
def test_an_error_names_file_and_line() -> None:
    with pytest.raises(nvrtc.CompileError, match=r'scale\.cu[(:]7.*identifier "y" is undefined'):
        nvrtc.compile_text('#line 7 "scale.cu"\n' + SMALL.replace("x[i] *= 2", "y[i] *= 2"), cuda.options({}), 90)


def test_instructions_are_counted_by_kernel() -> None:
    try:
        instructions = nvrtc.instructions(nvrtc.compile_text(SMALL, cuda.options({}), 90).cubin)
    except nvrtc.CompilerNotFound as missing:
        pytest.skip(str(missing))
    assert set(instructions) == {"scale", "clear"}
    assert (instructions["scale"]["LDG.E"], instructions["scale"]["STG.E"]) == (1, 1)
    assert (instructions["clear"]["LDG.E"], instructions["clear"]["STG.E"]) == (0, 1)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvrtc, "_library", lambda: None)
    monkeypatch.setattr(nvrtc, "_in_packages", lambda pattern: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (lambda: nvrtc.compile_text(SMALL, (), 90), nvrtc.architectures, nvrtc.version):
        with pytest.raises(nvrtc.CompilerNotFound, match=r"^neither NVRTC nor nvcc is installed, .* pip install"):
            ask()
    with pytest.raises(nvrtc.CompilerNotFound, match=r"^nvdisasm is not installed; .* nvidia-cuda-nvdisasm$"):
        nvrtc.disassemble(b"")
