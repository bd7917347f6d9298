"""Run what the models compute between matrix products and convolutions, each operation in one pass over its arrays.

Each operation has kernels for CUDA and Metal, and a formula of MLX's own operations for everything else (`Operation`).
The transformer's activations are (B, N, D), the VAE's (1, F, H, W, C).
"""

from ltx_models.kernels.frames import activate, add_delayed
from ltx_models.kernels.launch import Operation, backend, kernels_off
from ltx_models.kernels.rows import add_and_modulate, bias_gelu, gated_add, modulate, norm_and_rotate, rotate

OPERATIONS = (modulate, add_and_modulate, gated_add, norm_and_rotate, bias_gelu, activate, add_delayed)

__all__ = [
    "OPERATIONS",
    "Operation",
    "activate",
    "add_and_modulate",
    "add_delayed",
    "backend",
    "bias_gelu",
    "gated_add",
    "kernels_off",
    "modulate",
    "norm_and_rotate",
    "rotate",
]
