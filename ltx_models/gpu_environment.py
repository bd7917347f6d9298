"""Set environment variables that MLX and macOS read; this has to happen before MLX is imported.

MLX_CONV_WINOGRAD=0: Metal computes large 3 x 3 convolutions directly. MLX 0.32.4 uses Winograd's transform for them in
any type, and in bfloat16 that costs 2 to 6 % of error a convolution (direct: 0.17 %) and twice the memory.

AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1: macOS tolerates longer work on a GPU that also drives a display (ml-explore/mlx#3267).
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

__all__ = ["GPU_ENVIRONMENT", "set_gpu_environment"]

GPU_ENVIRONMENT = {
    "darwin": {"MLX_CONV_WINOGRAD": "0", "AGX_RELAX_CDM_CTXSTORE_TIMEOUT": "1"},
}
"""Variables and their values, by `sys.platform`."""


def set_gpu_environment(environment: MutableMapping[str, str] = os.environ, platform: str = sys.platform) -> None:
    """Set the variables that a platform's GPU needs; a variable that is set already keeps its value."""
    for name, value in GPU_ENVIRONMENT.get(platform, {}).items():
        environment.setdefault(name, value)
