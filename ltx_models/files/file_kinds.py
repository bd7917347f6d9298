"""Identify a file that is not the expected checkpoint by its content, and say what to do about it.

There are two tables: FORMATS, of files that are not safetensors, by their first bytes; MODELS, of safetensors files
that are not LTX-Video's, by their tensors' names. A new kind is a new row. Nothing is unpacked or unpickled. Needs no
MLX.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ltx_models.files.formats import (
    COMPRESSED,
    GIF,
    HEAD_BYTES,
    HEIF,
    JPEG,
    MATROSKA,
    MOV,
    PNG,
    RIFF,
    WEBP,
    ZIP,
    Format,
    format_of,
)

__all__ = [
    "AGAIN",
    "PREFIXES",
    "START_BYTES",
    "VAE_PREFIX",
    "describe_file",
    "describe_other_model",
    "describe_stand_in",
    "transformer_prefix",
]

START_BYTES = 4096
"""The number of bytes that are read to identify a file."""
SHOWN_CHARACTERS = 60
"""The most characters of a text file that an error shows."""

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "")
"""The prefixes of a transformer's tensors: in official single files, then in files of other tools."""
VAE_PREFIX = "vae."

AGAIN = "download it again"
MAKE_SMALLER = (
    "take a file in bfloat16, float16 or fp8, of which ltx models convert --quantize 4 makes one that is as small"
)
PICKLE = "which is not opened, since it can run any program; take the safetensors file of the same model"


def _begins(*magic: bytes, at: int = 0) -> Callable[[bytes, Path], bool]:
    return lambda start, _: start[at:].startswith(magic)


def _is(*formats: Format) -> Callable[[bytes, Path], bool]:
    return lambda start, _: format_of(start[:HEAD_BYTES]) in formats


def _matches(pattern: bytes) -> Callable[[bytes, Path], bool]:
    compiled = re.compile(pattern, re.DOTALL | re.IGNORECASE)
    return lambda start, _: compiled.match(start) is not None


def _is_torch_zip(start: bytes, path: Path) -> bool:
    if not _is(ZIP)(start, path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # cut short: its first entry tells
        return b"data.pkl" in start


def _is_text(start: bytes, _: Path) -> bool:
    return bool(_first_line(start))


def _first_line(start: bytes) -> str:
    """Return the first line of a text, or "" where the bytes are not text."""
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < START_BYTES - 4:  # else a character that was cut through
            return ""
        text = start[: error.start].decode("utf-8-sig")
    line = text.strip().partition("\n")[0].strip()
    return line[:SHOWN_CHARACTERS] if line.isprintable() else ""


BLANK = rb"(?:\xef\xbb\xbf)?\s*"

STAND_INS: tuple[tuple[Callable[[bytes, Path], bool], str, str], ...] = (
    (lambda start, _: not start, "an empty file", AGAIN),
    (lambda start, _: not any(start), "a file that begins with zeros, like an unfinished download", AGAIN),
    (
        _begins(b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"),
        "a Git LFS pointer, a text in place of the file",
        "git lfs pull fetches the file itself",
    ),
    (
        _matches(BLANK + rb"<(!doctype html|html|head|body|!--|\?xml)"),
        "an HTML page, as a site sends in place of a file that needs a login or does not exist",
        "download it again, logged in where the model is gated",
    ),
)
"""The rows of FORMATS that may be found in place of any file."""

FORMATS: tuple[tuple[Callable[[bytes, Path], bool], str, str], ...] = (
    *STAND_INS,
    (
        _matches(BLANK + rb"\{.*\"weight_map\""),
        "the index of a model in several files",
        "name the folder that it is in, with all of the files that it lists",
    ),
    (
        _matches(BLANK + rb"\{.*\"(error|errors|message|detail)\""),
        "a web server's error as JSON",
        "download it again, logged in where the model is gated",
    ),
    (_matches(BLANK + rb"[\[{]\s*[\"\]}{\[]"), "JSON, such as a config", "name the file of the weights"),
    (
        _begins(b"GGUF", b"FUGG", b"ggml", b"lmgg", b"ggjt", b"tjgg", b"ggmf", b"fmgg", b"ggla"),
        "a GGUF file, whose quantization is not supported",
        MAKE_SMALLER,
    ),
    (_is_torch_zip, f"a PyTorch pickle (.pt, .pth, .ckpt or .bin), {PICKLE}", ""),
    (_matches(rb"\x80[\x02-\x05]"), f"a pickle (an old .pt, .pth, .ckpt or .bin), {PICKLE}", ""),
    (_begins(b"ustar", at=257), "a tar archive", "unpack it and name the safetensors file in it"),
    (_is(ZIP), "a ZIP archive", "unpack it and name the safetensors file in it"),
    (_is(*COMPRESSED), "a compressed file", "unpack it and name the safetensors file in it"),
    (_begins(b"\x93NUMPY"), "a NumPy array", "take the safetensors file of the model"),
    (_begins(b"\x89HDF\r\n\x1a\n"), "an HDF5 file", "take the safetensors file of the model"),
    (_begins(b"TFL3", at=4), "a TensorFlow Lite model", "take the safetensors file of the model"),
    (
        _begins(b"\x00\x05\x16\x07", b"\x00\x05\x16\x00"),
        "an AppleDouble file (._NAME), in which macOS stores a file's attributes",
        "name the file without the ._",
    ),
    (_is(PNG, JPEG, WEBP, GIF, HEIF), "a picture", "name the checkpoint's safetensors file"),
    (_is(MOV, MATROSKA, RIFF), "a video or audio file", "name the checkpoint's safetensors file"),
    (_is_text, "a text", AGAIN),
    (lambda start, _: len(start) < 8, "only its beginning", AGAIN),
)
"""A test of the first bytes; what the file is; what to do. The first row that matches is used."""


def describe_file(path: Path, start: bytes) -> str:
    """Return what a file that is not safetensors is, and what to do.

    Args:
        path: The file.
        start: Its first START_BYTES.

    Returns:
        The rest of a sentence after "PATH is not a safetensors file".
    """
    for test, what, advice in FORMATS:
        if test(start, path):
            shown = f' that begins with "{_first_line(start)}"' if test is _is_text else ""
            return f" but {what}{shown}" + (f"; {advice}" if advice else "")
    return f": it does not begin with a header's length; {AGAIN}"


def describe_stand_in(path: Path) -> str:
    """Return what was found in place of a small file, such as a config, and what to do.

    Returns:
        The rest of a sentence after "PATH is not …"; "" where the content does not tell.
    """
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError:
        return ""
    return next((f" but {what}; {advice}" for test, what, advice in STAND_INS if test(start, path)), "")


OTHER_FAMILY = "name a checkpoint of LTX-Video 0.9.x, as an official single file"
OF_THE_TRANSFORMER = r"^(?:model\.diffusion_model\.|diffusion_model\.|transformer\.)?"

MODELS: tuple[tuple[str, str, str], ...] = (
    (
        r"[._]lora_?[AaBb](\.|$)|[._]lora_(down|up)\.|^lora_(unet|te|transformer)|\.(dora_scale|hada_w1_[ab]"
        r"|lokr_w[12](_[ab])?|oft_blocks|diff(_b)?)$|\.lora\.(down|up)\.",
        "a LoRA, which changes a model and is not one itself",
        "name the checkpoint of the model that it was made for",
    ),
    (r"\.bitsandbytes__|\.absmax$|\.quant_map$", "a model that bitsandbytes has quantized", MAKE_SMALLER),
    (r"\.(qweight|qzeros|wscales|wtscale|wcscales)$", "a model quantized by GPTQ, AWQ or SVDQuant", MAKE_SMALLER),
    (r"\.weight_scale_2$|\.weight_packed$", "a model in NVFP4 or another packed format", MAKE_SMALLER),
    (
        rf"{OF_THE_TRANSFORMER}(audio_patchify_proj|audio_proj_in|av_ca_|av_cross_|audio_adaln_single)|^audio_vae\.|^vocoder\.",
        "a model of the LTX-2 family",
        OTHER_FAMILY,
    ),
    (r"^(post_upsample_res_blocks|upsampler)\.", "a latent upscaler", OTHER_FAMILY),
    (r"(^|\.)(controlnet_|control_model\.)", "a ControlNet", OTHER_FAMILY),
    (rf"{OF_THE_TRANSFORMER}(input_blocks|middle_block)\.", "a model of the Stable Diffusion family", OTHER_FAMILY),
    (rf"{OF_THE_TRANSFORMER}joint_blocks\.", "a model of the Stable Diffusion 3 family", OTHER_FAMILY),
    (rf"{OF_THE_TRANSFORMER}(double|single)_blocks\.", "a model of the Flux or HunyuanVideo family", OTHER_FAMILY),
    (rf"{OF_THE_TRANSFORMER}(blocks\.\d+\.self_attn\.|patch_embedding\.)", "a model of the Wan family", OTHER_FAMILY),
    (
        rf"{OF_THE_TRANSFORMER}(pos_embed|patch_embed|x_embedder)\.",
        "an image or video model of another family",
        OTHER_FAMILY,
    ),
)
"""A pattern of tensor names; what the file is; what to do. The first row that matches is used."""

WITHOUT_TRANSFORMER: tuple[tuple[str, str, str], ...] = (
    (
        r"^(shared\.weight|(encoder|decoder)\.block\.0\.layer\.0\.)",
        "a T5 text encoder alone",
        "name the model's checkpoint here, and the folder of the text encoder and its config.json by --text-encoder",
    ),
    (r"(^|\.)(layers|h)\.\d+\.(self_attn|mlp|attn)\.|^text_model\.", "a language or CLIP model", OTHER_FAMILY),
    (
        r"^(vae\.|first_stage_model\.)?((de|en)coder\.(conv_in|(up|down)_blocks|mid_block)|per_channel_statistics)\b",
        "a VAE without a transformer",
        "name the official single file, which holds both",
    ),
)
"""The same columns, for files that have no transformer of LTX-Video."""
NUMBERED = re.compile(r"\.\d+(?=\.)")
DIFFUSERS = r"^(transformer\.)?(proj_in|time_embed)\."
"""A pattern of tensor names in diffusers' file of LTX-Video's transformer."""


def is_lora(names: Iterable[str]) -> bool:
    """Return whether tensors of these names are a LoRA's."""
    return _shows(MODELS[0][0], "\n".join(names))


def _shows(pattern: str, lines: str) -> bool:
    return re.search(pattern, lines, re.MULTILINE) is not None


def transformer_prefix(names: Iterable[str]) -> str | None:
    """Return the prefix of the transformer's tensors, or None where none are LTX-Video's."""
    found = set(names)
    for first in ("patchify_proj.weight", "transformer_blocks.0.attn1.to_q.weight"):
        for prefix in PREFIXES:
            if prefix + first in found:
                return prefix
    return None


def describe_other_model(names: Iterable[str]) -> str | None:
    """Return what a safetensors file is that is not a whole LTX-Video checkpoint, and what to do.

    Args:
        names: The names of its tensors.

    Returns:
        The rest of a sentence after "PATH is"; None for a whole checkpoint.
    """
    found = sorted(names)
    if not found:
        return f"a safetensors file without tensors; {AGAIN}"
    lines = "\n".join({NUMBERED.sub(".0", name) for name in found})  # one block's stand for all
    prefix = transformer_prefix(found)
    diffusers = _shows(DIFFUSERS, lines)
    for pattern, what, advice in (*MODELS, *(WITHOUT_TRANSFORMER if prefix is None and not diffusers else ())):
        if _shows(pattern, lines):
            return f"{what}; {advice}"
    if diffusers:
        return "the transformer of a diffusers folder; name the folder, which holds transformer/ and vae/"
    if prefix is None:
        shown = found[0][:SHOWN_CHARACTERS]
        first = shown if shown.isprintable() else ascii(shown)
        return f"a safetensors file with none of LTX-Video's tensors (but {first}, …); {OTHER_FAMILY}"
    return None
