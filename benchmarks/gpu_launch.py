"""Launches every CUDA kernel once, on small arrays: python gpu_launch.py cuda|emulator

What compute-sanitizer is to watch. Each array has memory of its own, so that whatever is beyond its end is nobody's:
CuPy's pool would cut many arrays from one piece.
"""

import importlib
import json
import sys
from pathlib import Path

from minigan.kernels import connect, cuda, synchronize


def main(name: str) -> None:
    """Prints a line of JSON for each .cu file that is done."""
    device = connect(name)
    if name == "cuda":
        device.xp.cuda.set_allocator(None)
    for file in sorted(cuda.KERNELS_FOLDER.glob("*/cuda.py")):
        importlib.import_module(f"minigan.kernels.{file.parent.name}.cuda")
    for source in cuda.SOURCES:
        for example in dict.fromkeys(source.examples.values()):
            example(device)
        synchronize()
        print(json.dumps({"file": Path(source.file).name, "kernels": list(source.examples)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
