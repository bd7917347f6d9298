"""Resume points on their way from one attempt to the next."""

from dataclasses import replace

import numpy as np
import pytest

from ltx_models.events import ResumePoint
from ltx_worker.engine.resume import Maker, ResumeRefused, pack, unpack

MAKER = Maker(checkpoint="c", text_encoder="t", dtype="bfloat16", version="1")


@pytest.mark.parametrize("extra", [None, np.ones((1, 4, 8), np.float32)])
def test_a_resume_point_comes_back_bit_for_bit(extra):
    latents = np.random.default_rng(0).standard_normal((1, 8, 2, 3, 4), dtype=np.float32)
    point = unpack(pack(ResumePoint(3, latents, extra), MAKER), MAKER)
    assert point.step == 3
    assert np.array_equal(point.latents, latents)
    assert point.extra is None if extra is None else np.array_equal(point.extra, extra)


@pytest.mark.parametrize("field", ["checkpoint", "text_encoder", "dtype", "version"])
def test_another_makers_is_refused_and_says_why(field):
    data = pack(ResumePoint(1, np.zeros((1, 1, 1, 1, 1), np.float32)), replace(MAKER, **{field: "other"}))
    with pytest.raises(ResumeRefused, match=f"another {field.replace('_', ' ')}"):
        unpack(data, MAKER)


def test_damaged_data_is_refused():
    data = pack(ResumePoint(1, np.zeros((1, 1, 1, 1, 1), np.float32)), MAKER)
    for damaged in (b"", b"x" * 100, data[:-30], data[:20]):
        with pytest.raises(ResumeRefused, match="damaged"):
            unpack(damaged, MAKER)
