"""Read checkpoints of any layout: the sections of the official config, and tensors by their official names."""

from ltx_models.checkpoint.files import Weights, file_hash, load_tensors, read_json, sharded_files
from ltx_models.checkpoint.layouts import (
    Checkpoint,
    DiffusersFolder,
    ShardedFile,
    SingleFile,
    SplitFolder,
    checkpoint_files,
    open_checkpoint,
)
from ltx_models.checkpoint.loading import build, check_finite, check_weights, load_weights, parse_config

__all__ = [
    "Checkpoint",
    "DiffusersFolder",
    "ShardedFile",
    "SingleFile",
    "SplitFolder",
    "Weights",
    "build",
    "check_finite",
    "check_weights",
    "checkpoint_files",
    "file_hash",
    "load_tensors",
    "load_weights",
    "open_checkpoint",
    "parse_config",
    "read_json",
    "sharded_files",
]
