"""Train pocket and pocket-distilled with PyTorch and diffusers: `python -m ltx_models.pocket.train --out DIR`.

    recipe → models, data → vae → dit → distil → export, evaluate

Each phase is a loop of steps (`loop`) that saves its state when its time is up, and continues from there when the
command is given again. Random numbers of a step depend only on the seed, the phase and the step's number, so a run that
was interrupted and one that was not are the same up to the GPU's own rounding.
"""
