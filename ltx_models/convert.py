"""Convert a checkpoint to a folder of files, quantized if asked: `python -m ltx_models.convert SRC DST`.

The folder holds `config.json` (the official config), a file for each section of the checkpoint with the official names,
and the other parts of the family that are given. A quantized matrix is MLX's `weight`, `scales` and `biases`; all other
tensors keep their precision. Tensors are read, converted and written one by one.

What is checked and written of each part is a function of its family's (`Part.convert`), which returns a `Conversion`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_models.checkpoint import Weights, check_finite
from ltx_models.errors import CheckpointError, ModelError, UnknownVariant
from ltx_models.families.family import Family, named
from ltx_models.families.variants import VARIANTS, find_variant, known_families
from ltx_models.files.model_files import find_files
from ltx_models.layers.fp8 import fold_scales, is_fp8, stored_finite, widened
from ltx_models.layers.quantization import BITS, Quantization, quantize_weight

__all__ = ["Conversion", "Network", "convert"]

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The tensors of a file to write.

    Attributes:
        weights: Returns the tensors by name, read from disk when first used.
        matrices: A regular expression that matches the layers that are quantized if asked.
    """

    weights: Callable[[], Weights]
    matrices: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is written of one part, once it is checked. Paths are relative to the new folder.

    Attributes:
        source: The file or folder that errors name.
        configs: The JSON to write.
        networks: The tensors to write.
        copies: Files to copy.
        left_out: Names of tensors that are not written.
        facts: What the parts after it are compared with, by name.
    """

    source: Path
    configs: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, Network] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    left_out: Sequence[str] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def convert(
    source: Path,
    destination: Path,
    *,
    quantize: int | None = None,
    family: Family | None = None,
    **parts: Path | None,
) -> Sequence[str]:
    """Write the checkpoint at `source`, of any layout, as the folder `destination`, which must not exist.

    Before a byte is written, build the models from the config, and compare the names and shapes of all tensors with
    them.

    Args:
        source: A checkpoint's file or folder.
        destination: The new folder.
        quantize: Bits, 8 or 4, for the matrices of the networks' blocks; None keeps them.
        family: The family of the checkpoint; None for the first one.
        parts: Other parts of the family to convert as well, by name; None leaves one out.

    Returns:
        The names of tensors that belong to none of the networks and are left out.

    Raises:
        CheckpointError: A file is not what is expected; the destination is not left behind.
    """
    _check_is_new(destination)
    family = family or next(known_families())
    checked = _checked(family, {family.checkpoint.name: source, **parts}, quantize)
    with _new_folder(destination) as folder:
        for part in checked:
            for name, config in part.configs.items():
                (folder / name).parent.mkdir(exist_ok=True)
                _write_json(folder / name, config, quantize)
            for name, network in part.networks.items():
                weights = _quantized(network.weights(), quantize, network.matrices)
                write_tensors(folder / name, weights, part.source)
            for name, file in part.copies.items():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, folder / name)
    return [name for part in checked for name in part.left_out]


def _check_is_new(destination: Path) -> None:
    try:
        destination.lstat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{destination} could not be created: {getattr(error, 'strerror', error)}") from error
    raise CheckpointError(f"{destination} exists already; name a folder that does not")


def _checked(family: Family, parts: Mapping[str, Path | None], quantize: int | None) -> list[Conversion]:
    """Return what is written of each part, in the family's order. Read no weights.

    Raises:
        CheckpointError: A part does not match its config or the parts before it, or is quantized already.
    """
    checked: list[Conversion] = []
    facts: dict[str, Any] = {}
    for part in family.parts:
        path = parts.get(part.name)
        if path is None:
            continue
        if not part.convert:
            raise CheckpointError(f"the {part.name.replace('_', ' ')} of {family.title} is not converted")
        conversion: Conversion = named(part.convert)(path, facts)
        for network in conversion.networks.values():
            if network.matrices:
                _refuse_quantized(network.weights(), quantize, path)
        facts |= conversion.facts
        checked.append(conversion)
    return checked


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
    if bits is None or not layers:
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
    names = dict.fromkeys(part.name for family in known_families() for part in family.parts[1:] if part.convert)
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left half-written
    try:
        given = {name: path for name in names if (path := getattr(options, name))}
        source, family, parts = _source(options.source)
        left_out = convert(source, options.destination, quantize=options.quantize, family=family, **(parts | given))
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
            f"left out, since neither {_titles(family)} has them: {len(left_out)}"
            f" tensor{'s' if more else ''} ({_printable(left_out[0][:200])}{more})",
            file=sys.stderr,
        )
    return 0


def _printable(text: str) -> str:
    """Return a line that is safe to print in a terminal: names of tensors come from strangers' files."""
    return "".join(character if character.isprintable() else " " for character in text)


def _titles(family: Family) -> str:
    """Return what the sections of a family's checkpoints are called."""
    sections = family.layout.sections if family.layout else ()
    return " nor ".join(f"the {section.title.partition(' ')[2]}" for section in sections)


def _source(name: str) -> tuple[Path, Family, dict[str, Path | None]]:
    """Return the checkpoint to convert, its family, and its other parts: what is at a path, or what a variant has.

    Raises:
        CheckpointError: The variant's files are not on this machine.
        UnknownVariant: `name` is neither a path nor a variant.
    """
    if os.path.lexists(name):
        return Path(name), next(known_families()), {}
    try:
        variant = find_variant(name)
    except UnknownVariant as error:
        raise UnknownVariant(
            f"there is no file, folder or variant {name}; the variants are: {', '.join(VARIANTS)}"
        ) from error
    parts: dict[str, Path | None] = dict(find_files(variant))
    source = parts.pop(variant.family.checkpoint.name)
    assert source is not None
    return source, variant.family, parts


if __name__ == "__main__":
    sys.exit(main())
