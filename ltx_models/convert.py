"""`python -m ltx_models.convert SRC DST`: a checkpoint as a folder of files, its matrices quantized if asked.

The folder holds `config.json` (the official config), `transformer.safetensors` and `vae.safetensors` with the official
names, and, if they are given, `text_encoder/` and `tokenizer/spiece.model`. A quantized matrix is MLX's `weight`,
`scales` and `biases`; the rest keeps the precision that it had. Tensors are read, converted and written one by one.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_models.checkpoint import Weights, load_tensors, open_checkpoint, read_json
from ltx_models.errors import CheckpointError, ModelError
from ltx_models.model_files import VariantFiles, find_files
from ltx_models.quantization import (
    BITS,
    TEXT_ENCODER_MATRICES,
    TRANSFORMER_MATRICES,
    Quantization,
    from_fp8,
    is_fp8,
    quantize_weight,
)
from ltx_models.text_encoder import text_encoder_files
from ltx_models.variants import find_variant

__all__ = ["convert"]

DTYPES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.uint8: "F8_E4M3",
}
"""The format's names. MLX has no fp8 type: its bytes are what a checkpoint holds as uint8."""
HEADER_ALIGNMENT = 8


def convert(
    source: Path,
    destination: Path,
    *,
    quantize: int | None = None,
    text_encoder: Path | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write the checkpoint at `source`, of any layout, as the folder `destination`, which must not exist.

    quantize: 8 or 4 bits for the matrices of the transformer's and the text encoder's blocks.
    Raises CheckpointError; then nothing is left of the destination.
    """
    if destination.exists():
        raise CheckpointError(f"{destination} exists already; name a folder that does not")
    checkpoint = open_checkpoint(source)
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        _write_json(unfinished / "config.json", checkpoint.config, quantize)
        weights = _quantized(checkpoint.transformer_weights(), quantize, TRANSFORMER_MATRICES, source)
        write_tensors(unfinished / "transformer.safetensors", weights)
        write_tensors(unfinished / "vae.safetensors", checkpoint.vae_weights())
        if text_encoder:
            _convert_text_encoder(text_encoder, unfinished / "text_encoder", quantize)
        if tokenizer:
            (unfinished / "tokenizer").mkdir()
            shutil.copyfile(tokenizer, unfinished / "tokenizer" / "spiece.model")
        unfinished.chmod(0o755)  # a temporary folder is its owner's alone
        unfinished.rename(destination)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _convert_text_encoder(source: Path, destination: Path, quantize: int | None) -> None:
    destination.mkdir()
    _write_json(destination / "config.json", read_json(source / "config.json"), quantize)
    weights: Weights = {}
    for path in text_encoder_files(source):
        weights |= load_tensors(path)[0]
    weights = {
        name: value.astype(mx.bfloat16) if value.dtype == mx.float16 else value for name, value in weights.items()
    }
    write_tensors(destination / "model.safetensors", _quantized(weights, quantize, TEXT_ENCODER_MATRICES, source))


def _write_json(path: Path, config: dict[str, Any], quantize: int | None) -> None:
    if quantize:
        quantization = Quantization(bits=quantize, layers="")
        config = config | {"quantization": {"bits": quantize, "group_size": quantization.group_size, "mode": "affine"}}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _quantized(weights: Weights, bits: int | None, layers: str, source: Path) -> Weights:
    """The same tensors, not evaluated, those of matching layers quantized where their rows are whole groups."""
    if bits is None:
        return weights
    if any(value.dtype == mx.uint32 for value in weights.values()):
        raise CheckpointError(f"{source} is quantized already; convert what it was made from")
    quantization = Quantization(bits=bits, layers=layers)
    result: Weights = {}
    for name in sorted(weights):
        value = weights.pop(name)
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and re.fullmatch(layers, layer) and value.shape[-1] % quantization.group_size == 0:
            value = from_fp8(value, mx.bfloat16) if is_fp8(value) else value
            result |= {f"{layer}.{part}": array for part, array in quantize_weight(value, quantization).items()}
        else:
            result[name] = value
    return result


def write_tensors(path: Path, tensors: Weights) -> None:
    """A safetensors file, written tensor by tensor: MLX's own writer would hold all of them at once.

    `tensors` is empty afterwards.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, value in tensors.items():
        if value.dtype not in DTYPES:
            raise CheckpointError(f"{name} is of the type {value.dtype}, which no checkpoint holds")
        header[name] = {
            "dtype": DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [end, end + value.nbytes],
        }
        end += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in list(tensors):
            data: Any = mx.contiguous(tensors.pop(name)).reshape(-1).view(mx.uint8)
            file.write(memoryview(data))


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="ltx models convert")
    parser.add_argument("source")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--quantize", type=int, choices=BITS)
    parser.add_argument("--text-encoder", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args()
    try:
        files = _source(options.source, options.text_encoder, options.tokenizer)
        convert(
            files.checkpoint,
            options.destination,
            quantize=options.quantize,
            text_encoder=files.text_encoder,
            tokenizer=files.tokenizer,
        )
    except ModelError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _source(name: str, text_encoder: Path | None, tokenizer: Path | None) -> Any:
    """The files to convert: those at a path, or those of a variant."""
    if Path(name).exists():
        return argparse.Namespace(checkpoint=Path(name), text_encoder=text_encoder, tokenizer=tokenizer)
    files = find_files(find_variant(name))
    return VariantFiles(files.checkpoint, text_encoder or files.text_encoder, tokenizer or files.tokenizer)


if __name__ == "__main__":
    sys.exit(main())
