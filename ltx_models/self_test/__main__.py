"""`python -m ltx_models.self_test VARIANT`: findings as lines of JSON, each as soon as it is there."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib.metadata import version

import mlx.core as mx

from ltx_models.kernels import backend
from ltx_models.self_test.clip import render_clip
from ltx_models.self_test.compare import compare_kernels, compare_parts
from ltx_models.variants import find_variant


def main() -> None:
    """Print what the device is, each comparison, and the clip."""
    variant = find_variant(sys.argv[1])
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    name = str(mx.device_info().get("device_name", "GPU")) if on_gpu else "CPU"
    _print({"kind": "device", "name": name, "mlx": version("mlx"), "kernels": backend() or "none"})
    for compare in (compare_parts, compare_kernels):
        for compared in compare(variant):
            _print({"kind": "compared", **dataclasses.asdict(compared), "right": compared.is_right})
    _print({"kind": "clip", **dataclasses.asdict(render_clip())})


def _print(values: dict[str, object]) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
