"""Print measurements as lines of JSON, each when it is made: `python -m ltx_models.benchmark VARIANT`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from importlib.metadata import version

import mlx.core as mx

from ltx_models.benchmark.bench import check_measured, measure_parts, open_bench
from ltx_models.benchmark.renders import check_memory, measure_renders, measure_whole
from ltx_models.errors import ModelError
from ltx_models.families.variants import find_variant
from ltx_models.memory import cache_limit
from ltx_models.request import GenerationRequest

USAGE = 2


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="ltx bench model")
    parser.add_argument("variant")
    for name in ("width", "height", "frames", "steps"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bits", type=int, choices=[8, 4])
    parser.add_argument("--compare", choices=["diffusers"])
    parser.add_argument("--memory", action="store_true", help="only the renders whose peaks are predicted")
    options = parser.parse_args()
    try:
        variant = find_variant(options.variant)
        if options.bits:
            bits = {**variant.bits, variant.family.largest.name: options.bits}
            variant = dataclasses.replace(variant, bits=bits)
        request = GenerationRequest(
            prompt="a benchmark",
            width=options.width,
            height=options.height,
            num_frames=options.frames,
            num_steps=options.steps,
            seed=0,
        ).resolve(variant)
        on_gpu = mx.default_device() == mx.Device(mx.gpu)
        if not on_gpu:  # where all is computed in float32
            variant = dataclasses.replace(variant, architecture=dataclasses.replace(variant.architecture, itemsize=4))
        check_measured(variant)
        check_memory(variant, request)
        _print({"device": _device(on_gpu), "dtype": "bfloat16" if on_gpu else "float32", "mlx": version("mlx")})
        dtype = mx.bfloat16 if on_gpu else mx.float32
        mx.set_cache_limit(cache_limit(variant.ram_gb * 10**9))
        bench = open_bench(variant, request, dtype)
        for measure in (measure_whole,) if options.memory else (measure_parts, measure_renders):
            for measurement in measure(bench, options.runs):
                _print(dataclasses.asdict(measurement))
        if options.compare:
            bench.release()
            for measurement in bench.compare(options.runs):
                _print(dataclasses.asdict(measurement))
    except ModelError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    except ImportError as error:
        if not options.compare:
            raise
        print(f"Error: comparing needs torch and diffusers: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    return 0


def _device(on_gpu: bool) -> str:
    return str(mx.device_info().get("device_name", "GPU")) if on_gpu else "CPU"


def _print(values: dict[str, object]) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
