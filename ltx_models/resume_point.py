"""The state from which the rest of a render continues, and what made it. Plain data: importable without MLX.

As bytes it is a safetensors file, whose metadata has everything that is no array. They may lie where others can write,
so reading them runs nothing, takes no more memory than a few times their size, and refuses in a sentence what is not
whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from ltx_models.errors import ResumeMismatch
from ltx_models.request import MAX_STEPS

__all__ = ["LARGEST", "Provenance", "ResumePoint"]

LARGEST = 256 * 10**6
"""Bytes of a resume point; that of the longest clip of the largest model has a tenth of them."""
LARGEST_HEADER = 10**6
MOST_ARRAYS = 32
KEY = "ltx_resume_point"
"""The metadata's one entry."""
FORMAT = 1
"""The number of what is described here; a reader refuses a higher one."""
DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "U8": "uint8",
    "U32": "uint32",
    "U64": "uint64",
}
"""The types that arrays may have, by their names in the file."""
TYPES = frozenset(DTYPES.values())


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that the arrays of a resume point depend on, besides the values of its request.

    Attributes:
        job: What the caller identifies the request by; "" where nothing does.
        hashes: The SHA-256 of the files of each component, by its name; {} where nobody has computed them.
        dtype: The type of weights and activations.
        quantization: The bits of each component that is quantized when it is loaded, by its name.
        version: The version of this code.
        loras: The SHA-256 and the strength of each LoRA, in order.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    job: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    dtype: str = ""
    quantization: Mapping[str, int] = field(default_factory=dict)
    version: str = ""
    loras: tuple[tuple[str, float], ...] = ()

    def difference(self, needed: Provenance) -> str | None:
        """Return in a few words what made the point that is not what is needed, or None if nothing is."""
        for name in ("job", "dtype", "version"):
            if getattr(self, name) != getattr(needed, name):
                return f"another {name}"
        if component := _other(self.hashes, needed.hashes):
            return f"another {component}"
        if component := _other(self.quantization, needed.quantization):
            return f"another quantization of the {component}"
        return None if self.loras == needed.loras else "other LoRAs"


def _other(mine: Mapping[str, Any], needed: Mapping[str, Any]) -> str | None:
    """Return in words which component two mappings have different values for, or None if they are equal."""
    named = next((name for name, value in needed.items() if mine.get(name) != value), None)
    if named is None:
        return None if mine.keys() == needed.keys() else "component"  # whose name anybody may have written
    return named.replace("_", " ")


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """The state from which the rest of a render continues.

    Attributes:
        stage: The name of the stage that it is of.
        step: The number of steps of that stage that are done.
        arrays: What the next step needs, by name: float16, bfloat16 (of `ml_dtypes`), float32 and float64, whose values
            are finite, and unsigned integers, such as the state of a random generator. Which names and shapes there
            are is for the stage to say.
        provenance: What made it.
    """

    stage: str
    step: int
    arrays: Mapping[str, np.ndarray]
    provenance: Provenance = field(default_factory=Provenance)

    def require(self, needed: Provenance) -> None:
        """Raise ResumeMismatch unless the point was made by what is needed."""
        if difference := self.provenance.difference(needed):
            raise ResumeMismatch(f"it was made with {difference}")

    def pack(self) -> bytes:
        """Return it as bytes.

        Raises:
            ResumeMismatch: It is larger than a resume point may be.
            TypeError: An array has another type than those that it may have.
        """
        if wrong := {name: array.dtype for name, array in self.arrays.items() if array.dtype.name not in TYPES}:
            raise TypeError(f"arrays of a resume point cannot have these types: {wrong}")
        if (size := sum(array.nbytes for array in self.arrays.values())) > LARGEST - LARGEST_HEADER:
            raise ResumeMismatch(f"the resume point has {size:,} bytes, and {LARGEST - LARGEST_HEADER:,} are the most")
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        head = _Head(stage=self.stage, step=self.step, provenance=self.provenance)
        head = _Head(stage=self.stage, step=self.step, provenance=self.provenance, sha256=_checksum(head, arrays))
        return save(arrays, {KEY: _heads.dump_json(head).decode()})

    @classmethod
    def unpack(cls, data: bytes) -> ResumePoint:
        """Return the resume point that `pack` has made bytes of.

        Raises:
            ResumeMismatch: They are damaged, or of a newer version, or not finite.
        """
        if len(data) > LARGEST:
            raise ResumeMismatch(f"the resume point has {len(data):,} bytes, and {LARGEST:,} are the most")
        if (size := int.from_bytes(data[:8], "little")) > LARGEST_HEADER:
            raise _damaged(f"its header has {size:,} bytes")
        try:
            tensors = deserialize(data)
            if len(tensors) > MOST_ARRAYS:
                raise _damaged(f"it has {len(tensors)} arrays, and {MOST_ARRAYS} are the most")
            head = _parse(json.loads(data[8 : 8 + size])["__metadata__"][KEY])
            arrays = {name: _array(name, tensor) for name, tensor in tensors}
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, ResumeMismatch):
                raise
            raise _damaged(f"{type(error).__name__}: {error}".partition("\n")[0][:200]) from error
        if _checksum(head, arrays) != head.sha256:
            raise _damaged("its checksum is another one")
        for name, array in arrays.items():
            if array.dtype.kind != "u" and not np.isfinite(array).all():
                raise ResumeMismatch(f"the resume point's array {name!a} has values that are not finite")
        return cls(head.stage, head.step, arrays, head.provenance)


@dataclass(frozen=True, kw_only=True)
class _Head:
    """What a file's metadata has."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    stage: Annotated[str, Field(max_length=100)]
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    provenance: Provenance
    sha256: str = ""


_heads = TypeAdapter(_Head)


def _parse(text: str) -> _Head:
    """Return the head that a metadata's entry has.

    Raises:
        ResumeMismatch: A newer version has written it, or it is damaged.
        ValueError, TypeError, RecursionError: It is no JSON.
    """
    number = json.loads(text).get("format") if text.startswith("{") else None
    if type(number) is int and number > FORMAT:
        raise ResumeMismatch(f"a newer version has written the resume point, in format {number}")
    try:
        return _heads.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            raise ResumeMismatch(f"a newer version has written the resume point: {place!a} is unknown here") from error
        raise _damaged(f"{place!a}: {first['msg']}") from error


def _array(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    if tensor["dtype"] not in DTYPES:
        raise _damaged(f"its array {name!a} is of the type {tensor['dtype']}")
    return np.frombuffer(tensor["data"], _dtype(DTYPES[tensor["dtype"]])).reshape(tensor["shape"])


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes  # which only who has such arrays needs

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _checksum(head: _Head, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of everything that a head and arrays say; safetensors has no checksum of its own."""
    described = {name: (array.dtype.name, array.shape) for name, array in sorted(arrays.items())}
    fields = _heads.dump_python(head, exclude={"sha256"}, mode="json")
    digest = hashlib.sha256(json.dumps([fields, described], sort_keys=True).encode())
    for _, array in sorted(arrays.items()):
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(why: str) -> ResumeMismatch:
    return ResumeMismatch(f"the resume point is damaged ({why})")
