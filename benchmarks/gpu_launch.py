"""Launches every CUDA kernel once, on small arrays: python gpu_launch.py cuda|emulator

What compute-sanitizer is to watch. Each array has memory of its own, so that whatever is beyond its end is nobody's:
CuPy's pool would cut many arrays from one piece.
"""

import json
import sys

from minigan.kernels import connect, cuda, set_conv_precision, synchronize


def main(name: str) -> None:
    """Prints a line of JSON for each .cu file that is done."""
    device = connect(name)
    if name == "cuda":
        device.xp.cuda.set_allocator(None)
    for source in cuda.sources():
        # In another precision the examples of conv2d/conv2d.cu would find their way to tensor cores; those of the
        # tensor cores' own kernels do anyway.
        with set_conv_precision("fp32"):
            for example in dict.fromkeys(source.examples.values()):
                example(device)
        synchronize()
        file = source.file.relative_to(cuda.KERNELS_FOLDER).as_posix()
        print(json.dumps({"file": file, "kernels": list(source.examples)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
