"""CLIP (Radford et al. 2021, arXiv 2103.00020), MetaCLIP (arXiv 2309.16671) and MetaCLIP 2 (arXiv 2507.22062).

MetaCLIP's checkpoints are of type clip. The activation, QuickGELU or GELU, is the one that config.json names in
`hidden_act`; the weights alone do not tell, and the wrong one gives other vectors without an error.
"""

from __future__ import annotations

from typing import Any

from models.families.family import Family
from models.families.hub import fixed_images, load_config, load_dual, projection_dim
from models.files import Checkpoint
from models.text import TextRules

_LEGACY_END = 2
"""CLIP configurations older than transformers PR 24773 say eos_token_id 2; for them the largest id is pooled."""


def _clip_texts(_: Checkpoint, config: Any) -> TextRules:
    tower = config.text_config
    end = None if tower.eos_token_id == _LEGACY_END else tower.eos_token_id
    return TextRules(
        padding="longest",
        context_length=tower.max_position_embeddings,
        vocabulary=tower.vocab_size,
        pooling="largest id" if end is None else f"first id {end}",
        end_id=end,
    )


def _metaclip_2_texts(_: Checkpoint, config: Any) -> TextRules:
    """XLM-R's vocabulary, whose end token is 2 indeed."""
    tower = config.text_config
    return TextRules(
        padding="longest",
        context_length=tower.max_position_embeddings,
        vocabulary=tower.vocab_size,
        pooling=f"first id {tower.eos_token_id}",
        end_id=tower.eos_token_id,
    )


CLIP = Family(
    kind="clip",
    image_pooling="class token",
    config=load_config,
    image=fixed_images("CLIP"),
    dim=projection_dim,
    text=_clip_texts,
    load=load_dual("CLIPModel"),
)
METACLIP_2 = Family(
    kind="metaclip_2",
    image_pooling="class token",
    config=load_config,
    image=fixed_images("CLIP"),
    dim=projection_dim,
    text=_metaclip_2_texts,
    load=load_dual("MetaClip2Model"),
)
