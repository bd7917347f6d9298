"""Define the features of this version: which fields of a job need which, and where jobs wait that older workers fail.

A worker reports its features in its record. A feature has a level, and a job waits at the highest level of the features
that it needs: its entry in the submitter's line and its queue carry the level. A worker reads the levels of its own
version alone, so an older worker neither sees the job nor takes its message. Every worker reads level 0, which has no
mark.

A new field of a job that older workers do not know is one row of `FEATURES`. So is a new `PROTOCOL_VERSION`, and a new
word of a state (`Status`, `Stage`): a row with a level of its own, and fields that the jobs concerned have, such as
("protocol",) for all. Workers rely on it: what one cannot read it puts a level above those of its own version, where
only a version with more levels looks for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

__all__ = [
    "CLIP_PARTS",
    "FEATURES",
    "NEWER_JOBS",
    "Feature",
    "features_of_this_version",
    "highest_level",
    "is_newer",
    "level_of",
    "levels",
    "missing_features",
    "needed_features",
]

CLIP_PARTS = "clip-parts"
"""A worker's feature: it reads the parts of clips that a job names, and the ends of clips without a part."""
NEWER_JOBS = "newer-jobs"
"""A worker's feature: it leaves jobs that it cannot read to newer workers; an older worker fails those of level 0."""


class Feature(NamedTuple):
    """What this version can do that some older version cannot.

    Attributes:
        name: A word, as workers report it.
        level: From 1, one more than that of the feature before it, and never changed; 0 for a feature that is older
            than levels.
        fields: Paths of fields of a job, such as "request.conditioning.*.start". A job needs the feature if one of them
            has a value; without one, the field is left out of its record, so that older workers read it.
    """

    name: str
    level: int
    fields: tuple[str, ...] = ()


FEATURES: tuple[Feature, ...] = (
    Feature(CLIP_PARTS, 0, ("request.conditioning.*.start", "request.conditioning.*.stop")),
    Feature(NEWER_JOBS, 0),
)
"""All features, the oldest first."""


def features_of_this_version() -> str:
    """Return the names of all features, as a worker's record has them."""
    return " ".join(feature.name for feature in FEATURES)


def highest_level() -> int:
    """Return the highest level that this version reads."""
    return max(feature.level for feature in FEATURES)


def levels() -> range:
    """Return the levels that this version reads."""
    return range(highest_level() + 1)


def needed_features(job: object) -> frozenset[str]:
    """Return the names of the features that a worker must have to render a job."""
    return frozenset(feature.name for feature in FEATURES if _is_needed(feature, job))


def level_of(job: object) -> int:
    """Return the level at which a job waits."""
    return max((feature.level for feature in FEATURES if feature.level and _is_needed(feature, job)), default=0)


def is_newer(features: Collection[str]) -> bool:
    """Return whether a worker with these features is of a newer version than this one."""
    return not {feature.name for feature in FEATURES}.issuperset(features)


def missing_features(features: Collection[str]) -> list[str]:
    """Return the names of this version's features that a worker with these features lacks."""
    return [feature.name for feature in FEATURES if feature.name not in features]


def _is_needed(feature: Feature, job: object) -> bool:
    return any(value not in (None, (), "") for path in feature.fields for value in _values(job, path))


def _values(holder: object, path: str) -> Iterator[object]:
    """Yield the values of a field; `*` stands for each item of a tuple."""
    name, _, rest = path.partition(".")
    found = holder if name == "*" and isinstance(holder, tuple) else (getattr(holder, name, None),)
    for value in found:
        if rest:
            yield from _values(value, rest)
        else:
            yield value
