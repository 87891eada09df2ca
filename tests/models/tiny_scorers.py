"""Small random checkpoints of the architectures that scorers load, in the format of the hub."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.models.tiny_checkpoints import CORPUS, SIDE, TOWER, random_model

PAIR = 48
"""Tokens of the longest pair."""


def _tokenizer(special: list[str], template: processors.TemplateProcessing | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, "Yes No Yes No"] * 4, trainer)
    if template is not None:
        tokenizer.post_processor = template
    return tokenizer


def build_bert_reranker(folder: Path, *, labels: int = 1, seed: int = 3) -> Path:
    """[CLS] query [SEP] candidate [SEP] with segments 0 and 1."""
    special = ["[PAD]", "[CLS]", "[SEP]"]
    template = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = _tokenizer(special, template)
    config = BertConfig(
        **TOWER, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=PAIR, num_labels=labels, pad_token_id=0
    )
    random_model(BertForSequenceClassification, config, seed).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=PAIR,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def build_roberta_reranker(folder: Path) -> Path:
    """<s> query </s></s> candidate </s>, positions counted from behind the padding's id, no segments."""
    special = ["<s>", "<pad>", "</s>"]
    template = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = _tokenizer(special, template)
    config = XLMRobertaConfig(
        **TOWER, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=PAIR + 2, type_vocab_size=1,
        num_labels=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    random_model(XLMRobertaForSequenceClassification, config, seed=4).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", model_max_length=512, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def build_llava(folder: Path) -> Path:
    """A CLIP tower, a projector and a Llama, with the processor that joins them."""
    special = ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer = _tokenizer(special, None)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"}, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    image_id = wrapped.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, image_size=SIDE, patch_size=8),
        text_config=LlamaConfig(
            **TOWER, num_key_value_heads=2, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=4096
        ),
        image_token_index=image_id, image_seq_length=(SIDE // 8) ** 2, vision_feature_layer=-1,
    )  # fmt: skip
    random_model(LlavaForConditionalGeneration, config, seed=5).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    template = (
        "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    LlavaProcessor(
        image_processor=images, tokenizer=wrapped, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    return folder
