"""Compute with MLX and print on which device: `python -m ltx_worker.engine.probe`, in a process that may die of it."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any


def probe() -> dict[str, Any]:
    """Compute a matrix product with MLX; return what computed it.

    Returns:
        `device`, "gpu" or "cpu"; `name`, the GPU's; `working_set`, the most bytes that the GPU should use, or None if
        it does not say; and `mlx`, the version.

    Raises:
        ArithmeticError: the product is wrong.
    """
    import mlx.core as mx

    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    product = mx.ones((256, 256)) @ mx.ones((256, 256))
    mx.eval(product)
    if product.sum().item() != 256**3:
        raise ArithmeticError("a matrix product came out wrong")
    info: dict[str, Any] = dict(mx.device_info()) if on_gpu else {}
    return {
        "device": "gpu" if on_gpu else "cpu",
        "name": info.get("device_name", ""),
        "working_set": info.get("max_recommended_working_set_size"),
        "mlx": metadata.version("mlx"),
    }


if __name__ == "__main__":
    print(json.dumps(probe()))  # noqa: T201 - it is what this program is for
