"""Check that a machine computes correctly, how fast, and in how much memory: `python -m ltx_models.self_test`.

compare.py   a block of each model and every kernel, against float32 on the CPU and against the kernels' formulas
clip.py      a clip of the bundled model, through an MP4 and back

video_trial.py only checks that an MP4 can be written and read.
"""

__all__ = ["WRONG"]

WRONG = 3
"""The exit code where a result is wrong; it is neither a traceback's nor a usage error's."""
