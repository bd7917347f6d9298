"""Print findings as lines of JSON, each when it is made: `python -m ltx_models.self_test VARIANT`.

The exit code is WRONG where a result is wrong, USAGE where nothing was tested, and 0 otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from importlib.metadata import version

import mlx.core as mx

from ltx_models.errors import ModelError
from ltx_models.families.variants import Variant, find_variant
from ltx_models.kernels import backend
from ltx_models.self_test import WRONG
from ltx_models.self_test.clip import render_clip
from ltx_models.self_test.compare import compare_kernels, compare_parts

USAGE = 2


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ltx_models.self_test")
    parser.add_argument("variant", help="whose widths to compute with")
    try:
        return _look(find_variant(parser.parse_args().variant))
    except ModelError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return USAGE


def _look(variant: Variant) -> int:
    """Print what the device is, each comparison, and the clip; return the exit code."""
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    name = str(mx.device_info().get("device_name", "GPU")) if on_gpu else "CPU"
    _print({"kind": "device", "name": name, "mlx": version("mlx"), "kernels": backend() or "none"})
    right = True
    for compare in (compare_parts, compare_kernels):
        for compared in compare(variant):
            right = right and compared.is_right
            _print({"kind": "compared", **dataclasses.asdict(compared), "right": compared.is_right})
    clip = render_clip()
    _print({"kind": "clip", **dataclasses.asdict(clip)})
    return 0 if right and not clip.problem else WRONG


def _print(values: dict[str, object]) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
