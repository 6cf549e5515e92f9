"""docs/cuda.md: its table is what the program prints, and so are the lines of the report that it quotes."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import cubins
import pytest
from on_device import needs_device, only_emulated

from minigan.kernels import nvrtc
from minigan.kernels.emulator.report import explain

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "cuda.md").read_text()
TABLE, *QUOTED = re.findall(r"```\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture(scope="module")
def program() -> Any:
    """benchmarks/cuda_steps.py, as a module."""
    spec = importlib.util.spec_from_file_location("cuda_steps", ROOT / "benchmarks" / "cuda_steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["cuda_steps"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cuda_steps"]


@only_emulated
@needs_device
def test_the_table_and_the_reports(program: Any) -> None:
    try:
        nvrtc.version()
    except nvrtc.CompilerNotFound as missing:
        pytest.skip(str(missing))

    def compiled_of(step: Any) -> nvrtc.Compiled:
        """What is compiled for other tests, too, unless the text is changed."""
        if step.changes:
            return program.compile_step(step)
        variants = [dict(variant) for variant in step.source.variants]
        return cubins.compiled(step.source, variants.index(dict(step.macros)), program.ARCHITECTURE)

    lines, reports = program.HEAD.splitlines(), ""
    for step in program.steps():
        found, launch = program.measure(step, compiled_of)
        lines.append(program.row(step, found))
        reports += explain(launch, 0)
    assert TABLE.splitlines() == ["$ python benchmarks/cuda_steps.py", *lines]
    for quoted in QUOTED:
        assert quoted in reports


def test_a_change_that_changes_nothing_is_an_error(program: Any) -> None:
    with pytest.raises(LookupError, match=r"^'b' stands 2 times in the kernel, not once$"):
        program.changed("a b b", {"a": "c", "b": "d"})
