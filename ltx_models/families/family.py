"""What a family of models is: rows that say what its parts, networks, stages and limits are.

Plain data: importable without MLX. What computes is named by its place, `module:name`, and imported when it is called,
so a client reads a family's limits and predicts its memory without the libraries that a render needs.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ltx_models.families.stages import Stage

__all__ = ["Component", "Family", "Layout", "Limits", "Part", "Section", "Stage", "named"]


def named(place: str) -> Callable[..., Any]:
    """Import what a row names as `module:name`, and return it."""
    found: Callable[..., Any] = pkgutil.resolve_name(place)
    return found


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The videos that a family can make.

    Attributes:
        size_stride: Pixels of one latent column or row; a video's sides are multiples of it.
        max_size: The longest side in pixels.
        frame_stride: Frames of one latent frame after the first; a video has one frame more than a multiple of it.
        max_frames: The longest video in frames.
        text_tokens: The number of tokens of a text that are read, the end token included.
        perturbing: The modes of spatio-temporal guidance (`GenerationRequest.stg_mode`).
    """

    size_stride: int
    max_size: int
    frame_stride: int
    max_frames: int
    text_tokens: int
    perturbing: tuple[str, ...] = ()

    @property
    def frame_rule(self) -> str:
        """The rule for the number of frames, for people."""
        return "a whole number" if self.frame_stride == 1 else f"{self.frame_stride}n+1"

    @property
    def shortest_clip(self) -> int:
        """The least number of frames from a clip's first frame to the video's end: two latent frames.

        The first of them covers one frame. At frame 0 the clip gives the first latent frame, and the second is
        rendered; later, the clip gives both.
        """
        return self.frame_stride + 1

    def frames_at_most(self, count: int) -> int:
        """Return the largest number of frames, at most `count`, that a video can have."""
        return (count - 1) // self.frame_stride * self.frame_stride + 1

    def nearest_frames(self, count: float) -> int:
        """Return the nearest number of frames that a video can have."""
        return max(0, round(count / self.frame_stride)) * self.frame_stride + 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file or folder on disk that a variant needs.

    Attributes:
        name: Its name in `Variant.files`.
        converted: Its path in a folder that `ltx models convert` wrote; "" for the folder itself.
        shown_by: The file whose presence shows that such a folder has it.
        hashed_as: The name under which its bytes identify what a render was made with; parts may share one.
        files: Names a function of its path that returns the files that are read.
        open: Names a function of its path that returns what components are loaded from; "" where that is the path.
        convert: Names a function that lists what `ltx models convert` writes for it (`ltx_models.convert`); "" where
            the family's files are not converted.
        check: Names a function of its path that raises CheckpointError where it is damaged, without MLX; "" for none.
        tokenizer: Names a class that is made of its path and has a `count` of a text's tokens; "" for other parts.
    """

    name: str
    converted: str
    shown_by: str
    hashed_as: str
    files: str
    open: str = ""
    convert: str = ""
    check: str = ""
    tokenizer: str = ""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A network of a family.

    Attributes:
        name: Its name.
        title: What people are told is being loaded.
        part: The name of the part that it is read from.
        load: Names the function that returns it, of what the part's `open` returned, the dtype, and, where it has
            `matrices`, the bits to which they are quantized or None.
        weights: Names a function of the variant that returns the bytes of its weights in memory.
        working: Names a function of the variant, a resolved request, and one of its `plans` or None, that returns the
            bytes that it takes while it works; None where that request does not use it.
        plans: Names a function of the variant and a resolved request that returns the ways in which it can work, by
            falling need of memory; "" where there is one.
        matrices: A regular expression that matches the full names of the linear layers that may be stored in fewer
            bits; "" for none.
        loading: The fraction of loading that is done when it is next; None where it is read when a request uses it.
        encodes_texts: Whether it is used for texts alone, so that a render whose embeddings are known does without.
    """

    name: str
    title: str
    part: str
    load: str
    weights: str
    working: str
    plans: str = ""
    matrices: str = ""
    loading: float | None = None
    encodes_texts: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A network, or a pair of them, as checkpoints store it.

    Attributes:
        name: Its section of the official config, and its folder among diffusers' folders.
        title: What errors call it, with its article.
        prefixes: The prefixes of its tensors in files that hold more than it; the first is the official one.
        files: The names of its file in a folder that has one file for each; the first is what is written.
        config: The name of a config of its own in such a folder; "" for none.
        contains: A part of the names of some of its tensors.
        rename: Names a function that translates diffusers' names of its tensors to the official ones, given the tensors
            and the official config.
        complete: Names a function that completes tensors of a file of it alone; "" where they are complete.
        matrices: As in `Component`.
    """

    name: str
    title: str
    prefixes: tuple[str, ...]
    files: tuple[str, ...]
    contains: str
    rename: str
    config: str = ""
    complete: str = ""
    matrices: str = ""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a family's checkpoints are stored, in one official file, in diffusers' folders, or in a folder of files.

    Attributes:
        sections: What a checkpoint holds; the first section tells the family.
        shared_file: The key of a file's metadata that names the file in the same folder that has the second section.
        diffusers_class: The class that diffusers' config of the first section names.
        classes: Other classes that it may name.
        official_config: Names a function that returns the official config of diffusers' configs.
        prefix_of: Names a function of the names of a file's tensors that returns the prefix of the first section's, or
            None where it has none.
        title: What errors call the family.
    """

    sections: tuple[Section, ...]
    shared_file: str
    diffusers_class: str
    classes: tuple[str, ...] = ()
    official_config: str
    prefix_of: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family: variants of one architecture, which share their code.

    Attributes:
        name: Its name.
        title: What people call it.
        parts: What it needs on disk; the first is the checkpoint.
        components: Its networks, in the order in which a render uses them.
        unloading: The names of its networks, in the order in which they make room for another.
        stages: The stages of a render, in order.
        limits: The videos that it can make.
        pipeline: Names its `ltx_models.pipeline.base.Pipeline`.
        layout: How its checkpoints are stored; None where its parts' `open` read formats of their own.
        benchmark: Names a `ltx_models.benchmark.bench.Bench`; "" where it cannot be measured.
        compared: Names the mapping of parts that a self-test compares (`ltx_models.self_test.compare`); "" for none.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    components: tuple[Component, ...]
    unloading: tuple[str, ...]
    stages: tuple[Stage, ...]
    limits: Limits
    pipeline: str
    layout: Layout | None = None
    benchmark: str = ""
    compared: str = ""

    @property
    def checkpoint(self) -> Part:
        """The part that holds what the family is named after."""
        return self.parts[0]

    @property
    def largest(self) -> Component:
        """The network that is unloaded last."""
        return self.component(self.unloading[-1])

    @property
    def resident(self) -> tuple[Component, ...]:
        """The networks that every render uses, in the order in which they are loaded."""
        always = [(each.loading, each) for each in self.components if each.loading is not None]
        return tuple(each for _, each in sorted(always, key=lambda pair: pair[0]))

    def component(self, name: str) -> Component:
        """Return the network of that name."""
        return next(each for each in self.components if each.name == name)

    def part(self, name: str) -> Part:
        """Return the part of that name."""
        return next(each for each in self.parts if each.name == name)

    def used_by(self, part: Part) -> Collection[Component]:
        """Return the networks that are read from a part."""
        return [each for each in self.components if each.part == part.name]
