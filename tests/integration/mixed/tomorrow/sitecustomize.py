"""Make a version of tomorrow of this one: Python imports this at its start if its folder is on PYTHONPATH.

Its requests have a field that this version does not know, and the feature has a row. LTX_TOMORROW_LEVEL is the row's
level: 0 sends jobs with the field to everybody, as no version does.
"""

import dataclasses
import os

import ltx_models.request as module
from ltx_client.protocol.versions import features


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRequest(module.GenerationRequest):
    """A request that may name holograms."""

    holograms: tuple[str, ...] | None = None


module.GenerationRequest = GenerationRequest
LEVEL = int(os.environ.get("LTX_TOMORROW_LEVEL", "1"))
features.FEATURES = (*features.FEATURES, features.Feature("holograms", LEVEL, ("request.holograms",)))
