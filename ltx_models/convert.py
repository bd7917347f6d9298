"""Convert a checkpoint to a folder of files, quantized if asked: `python -m ltx_models.convert SRC DST`.

The folder holds `config.json` (the official config), `transformer.safetensors` and `vae.safetensors` with the official
names, and, if they are given, `text_encoder/` and `tokenizer/spiece.model`. A quantized matrix is MLX's `weight`,
`scales` and `biases`; all other tensors keep their precision. Tensors are read, converted and written one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_models.checkpoint import Checkpoint, Weights, check_finite, open_checkpoint, parse_config, read_json
from ltx_models.errors import CheckpointError, ModelError, UnknownVariant
from ltx_models.families.variants import VARIANTS, find_variant
from ltx_models.files.model_files import VariantFiles, find_files
from ltx_models.layers.fp8 import fold_scales, is_fp8, stored_finite, widened
from ltx_models.layers.quantization import (
    BITS,
    TEXT_ENCODER_MATRICES,
    TRANSFORMER_MATRICES,
    Quantization,
    quantize_weight,
)
from ltx_models.schedulers import SchedulerConfig
from ltx_models.text_encoders.t5 import check_text_encoder, text_encoder_weights
from ltx_models.text_encoders.tokenizer import Tokenizer
from ltx_models.transformers.ltxv import check_transformer
from ltx_models.vae import check_vae

__all__ = ["convert"]

DTYPES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.uint8: "F8_E4M3",
    mx.int8: "I8",
}
"""The format's names of MLX's types. MLX has no fp8 type: a checkpoint's fp8 tensors are read as uint8."""
HEADER_ALIGNMENT = 8


def convert(
    source: Path,
    destination: Path,
    *,
    quantize: int | None = None,
    text_encoder: Path | None = None,
    tokenizer: Path | None = None,
) -> Sequence[str]:
    """Write the checkpoint at `source`, of any layout, as the folder `destination`, which must not exist.

    Before a byte is written, build the models from the config, and compare the names and shapes of all tensors with
    them.

    Args:
        source: A checkpoint's file or folder.
        destination: The new folder.
        quantize: Bits, 8 or 4, for the matrices of the transformer's and the text encoder's blocks; None keeps them.
        text_encoder: A Hugging Face T5 folder to convert as well, or None.
        tokenizer: A `spiece.model` to copy as well, or None.

    Returns:
        The names of tensors that belong to none of the models and are left out.

    Raises:
        CheckpointError: A file is not what is expected; the destination is not left behind.
    """
    _check_is_new(destination)
    checkpoint = open_checkpoint(source)
    _check(checkpoint, quantize, text_encoder, tokenizer)
    with _new_folder(destination) as folder:
        _write_json(folder / "config.json", checkpoint.config, quantize)
        weights = _quantized(checkpoint.transformer_weights(), quantize, TRANSFORMER_MATRICES)
        write_tensors(folder / "transformer.safetensors", weights, source)
        write_tensors(folder / "vae.safetensors", checkpoint.vae_weights(), source)
        if text_encoder:
            _convert_text_encoder(text_encoder, folder / "text_encoder", quantize)
        if tokenizer:
            (folder / "tokenizer").mkdir()
            shutil.copyfile(tokenizer, folder / "tokenizer" / "spiece.model")
    return checkpoint.left_out


def _check_is_new(destination: Path) -> None:
    try:
        destination.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{destination} could not be created: {getattr(error, 'strerror', error)}") from error
    raise CheckpointError(f"{destination} exists already; name a folder that does not")


def _check(checkpoint: Checkpoint, quantize: int | None, text_encoder: Path | None, tokenizer: Path | None) -> None:
    """Raise CheckpointError unless all parts match their configs. Read no weights."""
    channels = check_transformer(checkpoint).caption_channels
    check_vae(checkpoint)
    if "scheduler" in checkpoint.config:
        source = f"the scheduler config of {checkpoint.path}"
        parse_config(SchedulerConfig, checkpoint.section("scheduler"), {}, source=source)
    _refuse_quantized(checkpoint.transformer_weights(), quantize, checkpoint.path)
    vocabulary = None
    if text_encoder:
        config = check_text_encoder(text_encoder)
        vocabulary = config.vocab_size
        if config.d_model != channels:
            raise CheckpointError(
                f"the text encoder {text_encoder} makes embeddings of {config.d_model} channels; {checkpoint.path} was"
                f" trained with {channels}"
            )
        _refuse_quantized(text_encoder_weights(text_encoder), quantize, text_encoder)
    if tokenizer:
        Tokenizer(tokenizer, vocabulary)


@contextmanager
def _new_folder(destination: Path) -> Iterator[Path]:
    """Yield a folder next to `destination`, renamed to it in the end, or removed on an error."""
    made = [folder for folder in destination.absolute().parents if not folder.exists()]
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".ltx-convert-", dir=destination.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # a temporary folder is its owner's alone
        unfinished.rename(destination)
    except BaseException:  # also Ctrl-C: whatever it is, half a folder must not stay
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # somebody has put something into it
                folder.rmdir()
        raise


def _convert_text_encoder(source: Path, destination: Path, quantize: int | None) -> None:
    destination.mkdir()
    _write_json(destination / "config.json", read_json(source / "config.json"), quantize)
    weights = {
        name: value.astype(mx.bfloat16) if value.dtype == mx.float16 else value
        for name, value in text_encoder_weights(source).items()
    }
    write_tensors(destination / "model.safetensors", _quantized(weights, quantize, TEXT_ENCODER_MATRICES), source)


def _write_json(path: Path, config: dict[str, Any], quantize: int | None) -> None:
    if quantize:
        quantization = Quantization(bits=quantize, layers="")
        config = config | {"quantization": {"bits": quantize, "group_size": quantization.group_size, "mode": "affine"}}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _refuse_quantized(weights: Weights, bits: int | None, source: Path) -> None:
    if bits and any(value.dtype == mx.uint32 for value in weights.values()):
        raise CheckpointError(f"{source} is quantized already; convert what it was made from")


def _quantized(weights: Weights, bits: int | None, layers: str) -> Weights:
    """Return the tensors, not evaluated, with those of matching layers quantized where rows are whole groups."""
    if bits is None:
        return weights
    quantization = Quantization(bits=bits, layers=layers)
    rows = {
        name.removesuffix(".weight"): value.shape[-1] for name, value in weights.items() if name.endswith(".weight")
    }
    chosen = {layer for layer in rows if re.fullmatch(layers, layer) and rows[layer] % quantization.group_size == 0}
    fold_scales(weights, chosen)
    result: Weights = {}
    for name in sorted(weights):
        value = weights.pop(name)
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer in chosen:
            value = widened(value, mx.bfloat16) if is_fp8(value) else value
            parts = quantize_weight(value, quantization)
            parts["scales"] = mx.where(stored_finite(value), parts["scales"], mx.nan)  # quantizing may lose a NaN
            result |= {f"{layer}.{part}": array for part, array in parts.items()}
        else:
            result[name] = value
    return result


def write_tensors(path: Path, tensors: Weights, source: Path) -> None:
    """Write a safetensors file, tensor by tensor: MLX's own writer would need all of them in memory at once.

    Args:
        path: The new file.
        tensors: The tensors by name; empty afterwards.
        source: The file that errors name.

    Raises:
        CheckpointError: A tensor has values that are not finite, or a type that checkpoints do not have.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, value in tensors.items():
        if value.dtype not in DTYPES:
            raise CheckpointError(f"{source} has {name} of the type {value.dtype}, which checkpoints do not use")
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
            value = mx.contiguous(tensors.pop(name))
            finite = stored_finite(value)
            data: Any = value.reshape(-1).view(mx.uint8)
            mx.eval(data, finite)
            check_finite({name: finite}, source)
            file.write(memoryview(data))


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="ltx models convert")
    parser.add_argument("source")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--quantize", type=int, choices=BITS)
    parser.add_argument("--text-encoder", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left half-written
    try:
        files = _source(options.source, options.text_encoder, options.tokenizer)
        left_out = convert(
            files.checkpoint,
            options.destination,
            quantize=options.quantize,
            text_encoder=files.text_encoder,
            tokenizer=files.tokenizer,
        )
    except (ModelError, OSError) as error:
        why = (
            f"{options.destination} could not be created: {error.strerror}"
            if isinstance(error, OSError)
            else str(error)
        )
        print(f"Error: {_printable(why)}", file=sys.stderr)  # noqa: T201
        return 2
    if left_out:
        more = ", …" if len(left_out) > 1 else ""
        print(  # noqa: T201
            f"left out, since neither the transformer nor the VAE has them: {len(left_out)}"
            f" tensor{'s' if more else ''} ({_printable(left_out[0][:200])}{more})",
            file=sys.stderr,
        )
    return 0


def _printable(text: str) -> str:
    """Return a line that is safe to print in a terminal: names of tensors come from strangers' files."""
    return "".join(character if character.isprintable() else " " for character in text)


def _source(name: str, text_encoder: Path | None, tokenizer: Path | None) -> Any:
    """Return the files to convert: those at a path, or those of a variant.

    Raises:
        CheckpointError: The variant's files are not on this machine.
        UnknownVariant: `name` is neither a path nor a variant.
    """
    if os.path.lexists(name):
        return argparse.Namespace(checkpoint=Path(name), text_encoder=text_encoder, tokenizer=tokenizer)
    try:
        variant = find_variant(name)
    except UnknownVariant as error:
        raise UnknownVariant(
            f"there is no file, folder or variant {name}; the variants are: {', '.join(VARIANTS)}"
        ) from error
    files = find_files(variant)
    return VariantFiles(files.checkpoint, text_encoder or files.text_encoder, tokenizer or files.tokenizer)


if __name__ == "__main__":
    sys.exit(main())
