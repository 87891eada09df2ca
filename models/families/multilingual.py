"""CLIP with a text tower of another language's: AltCLIP (arXiv 2211.06679) and Chinese-CLIP (arXiv 2211.01335).

Both text towers see all positions, so the padding of a batch is masked, and pool the first one. XLM-R counts positions
from the padding id on, so its table holds that many texts' positions fewer than it has rows.
"""

from __future__ import annotations

from typing import Any

from models.families.family import Family
from models.families.hub import fixed_images, load_config, load_dual, projection_dim
from models.files import Checkpoint
from models.text import TextRules


def _xlmr_texts(_: Checkpoint, config: Any) -> TextRules:
    tower = config.text_config
    return TextRules(
        padding="masked",
        context_length=tower.max_position_embeddings - tower.pad_token_id - 1,
        vocabulary=tower.vocab_size,
        pooling="first position",
        pad_id=tower.pad_token_id,
    )


def _bert_texts(_: Checkpoint, config: Any) -> TextRules:
    tower = config.text_config
    return TextRules(
        padding="masked",
        context_length=tower.max_position_embeddings,
        vocabulary=tower.vocab_size,
        pooling="first position",
        pad_id=tower.pad_token_id,
    )


ALTCLIP = Family(
    kind="altclip",
    image_pooling="class token",
    config=load_config,
    image=fixed_images("CLIP"),
    dim=projection_dim,
    text=_xlmr_texts,
    load=load_dual("AltCLIPModel"),
)
CHINESE_CLIP = Family(
    kind="chinese_clip",
    image_pooling="class token",
    config=load_config,
    image=fixed_images("ChineseCLIP"),
    dim=projection_dim,
    text=_bert_texts,
    load=load_dual("ChineseCLIPModel"),
)
