from __future__ import annotations

import math

import torch
from transformers.models.blip.modeling_blip_text import BlipTextModel

from models.scenes.blip import blip_config, blip_tokenizer
from models.scenes.captions import caption
from models.scenes.pointing import Attention, nats, or_class_token
from models.scenes.sample import sample_scene
from models.scenes.told import tell


def test_the_logits_are_those_of_the_models_own_attention() -> None:
    torch.manual_seed(0)
    config = blip_config().text_config
    config._attn_implementation = "eager"  # the only one that gives its probabilities away
    model = BlipTextModel(config, add_pooling_layer=False).eval()
    attention = Attention(model.encoder.layer, config.num_attention_heads)
    ids, images = torch.randint(4, 60, (3, 7)), torch.randn(3, 10, config.encoder_hidden_size)
    out = model(input_ids=ids, encoder_hidden_states=images, output_attentions=True)
    texts, at = torch.tensor([0, 2, 2]), torch.tensor([1, 0, 6])
    for layer in (0, 3):
        told = attention.logits(layer, "cross", texts, at, 2).softmax(-1)
        assert torch.allclose(told, out.cross_attentions[layer][texts, :2, at], atol=1e-5)
        told = attention.logits(layer, "self", texts, at, 4).softmax(-1)
        assert torch.allclose(told, out.attentions[layer][texts, :, at], atol=1e-5)


def test_the_loss_is_least_where_attention_is_spread_evenly_over_what_is_wanted() -> None:
    wanted = torch.tensor([[False, True, True]])
    even, one, none = torch.tensor([[[-30.0, 0, 0]], [[-30, 9, 0]], [[9, 0, 0]]]).split(1)
    assert math.isclose(float(nats(even, wanted)), math.log(2), abs_tol=1e-5)
    assert nats(even, wanted) < nats(one, wanted) < nats(none, wanted)


def test_what_is_not_there_is_looked_for_in_the_class_token() -> None:
    cells = torch.tensor([[0.0] * 9, [0.0] * 8 + [1.0]])
    assert or_class_token(cells).nonzero().tolist() == [[0, 0], [1, 9]]


def test_adjectives_stand_before_their_nouns_and_links_join_a_relations_nouns() -> None:
    tokenizer, linked = blip_tokenizer(), 0
    for i in range(100):
        scene = sample_scene(i)
        query = caption(scene, "full", i).query
        told = tell(query, scene)
        claims = [*query.claims, *((query.relation.subject, query.relation.object) if query.relation else ())]
        for (noun, _), count, claim in zip(told.nouns, told.adjectives, claims, strict=True):
            words = [tokenizer.id_to_token(token) for token in told.ids[noun - count : noun]]
            assert words == [w for w in (claim.size, claim.texture, claim.colour) if w is not None]
        nouns = [noun for noun, _ in told.nouns]
        assert told.links == ([(nouns[-1], nouns[-2])] if query.relation else [])
        linked += len(told.links)
    assert linked > 50
