"""The families of encoders that are served, each described in a file of its own. Imports no torch."""

from __future__ import annotations

from models.families.clip import CLIP, METACLIP_2
from models.families.family import Family, Network
from models.families.features import DINOV2, DINOV2_REGISTERS, RESNET
from models.families.multilingual import ALTCLIP, CHINESE_CLIP
from models.families.open_clip import OPEN_CLIP
from models.families.siglip import SIGLIP, SIGLIP2_NAFLEX

__all__ = ["FAMILIES", "HINTS", "Family", "Network"]

FAMILIES: dict[str, Family] = {
    family.kind: family
    for family in (
        CLIP, METACLIP_2, SIGLIP, SIGLIP2_NAFLEX, ALTCLIP, CHINESE_CLIP, DINOV2, DINOV2_REGISTERS, RESNET,
        OPEN_CLIP,
    )
}  # fmt: skip
"""By kind."""

_ONE_TOWER = "it holds one of the two towers, both are needed"
HINTS: dict[str | None, str] = {
    "clip_text_model": _ONE_TOWER,
    "clip_vision_model": _ONE_TOWER,
    "siglip_text_model": _ONE_TOWER,
    "siglip_vision_model": _ONE_TOWER,
    None: "config.json names no model_type, so it is not a model saved by transformers",
}
"""What to say of kinds that are refused, where there is more to say than their name."""
