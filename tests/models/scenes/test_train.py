from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from models.scenes.captions import caption
from models.scenes.dataset import ATTRIBUTES, Batches, Recipe, also_true, cell_classes, codes
from models.scenes.encoder import build_encoder, encode_texts, save_encoder
from models.scenes.losses import contrastive, presence
from models.scenes.muon import orthogonal
from models.scenes.sample import sample_scene
from models.scenes.tokens import END_ID, PAD_ID, START_ID, UNKNOWN_ID
from models.scenes.train_encoder import EncoderTrainer
from models.scenes.training import Plan
from models.scenes.vocabulary import COLOURS, SHAPES


def test_fifty_steps_from_an_empty_folder_let_the_loss_fall(tmp_path: Path) -> None:
    plan = Plan(steps=50, batch=32, first_share=0.3, warm_steps=5, workers=0, gallery=50)
    with Progress(disable=True) as progress:
        losses = EncoderTrainer(tmp_path / "run", plan).run(progress)
    assert len(losses) == 50
    # The image tower alone, then both towers: another loss.
    assert np.mean(losses[10:15]) < 0.8 * np.mean(losses[:5])
    assert np.mean(losses[40:]) < 0.95 * np.mean(losses[15:25])
    CLIPModel.from_pretrained(tmp_path / "run" / "model")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["step"] == 50


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        first = EncoderTrainer(tmp_path, Plan(steps=3, batch=16, first_share=0.5, workers=0, gallery=50))
        first.run(progress)
        second = EncoderTrainer(tmp_path, Plan(steps=5, batch=16, first_share=0.5, workers=0, gallery=50))
        second.resume()
        assert second.state.step == 3
        assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
        assert len(second.run(progress)) == 2
    assert second.state.samples == 5 * 16


def test_batches_are_the_same_in_every_run_and_differ_from_each_other() -> None:
    recipe = Recipe(batch=8, edited=0.3)
    one, two = iter(Batches(recipe)), iter(Batches(recipe))
    first, again, second = next(one), next(two), next(one)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pixels"], second["pixels"])


def test_training_batches_hold_no_held_out_combination() -> None:
    batches = iter(Batches(Recipe(batch=64, edited=0.5)))
    shapes, colours = list(SHAPES), list(COLOURS)
    held = {(colours.index("red"), shapes.index("moon")), (colours.index("green"), shapes.index("star"))}
    for _ in range(8):
        things = next(batches)["things"].reshape(-1, 4)
        assert held.isdisjoint({(int(colour), int(shape)) for shape, colour, *_ in things})


def test_codes_and_cell_classes_say_what_the_scene_holds() -> None:
    for scene in map(sample_scene, range(100)):
        cells = cell_classes(scene)
        for thing, code in zip(scene, codes(scene), strict=False):
            assert code[ATTRIBUTES.index("shape")] == SHAPES.index(thing.shape)
            row = cells[int(thing.y * 3) * 3 + int(thing.x * 3)]
            assert row[0 if thing.holder < 0 else 4] == SHAPES.index(thing.shape) + 1
        assert (cells[:, 0] > 0).sum() == sum(t.holder < 0 for t in scene)


def test_presence_marks_the_pairs_of_the_things_and_no_others() -> None:
    things = torch.tensor([[[2, 3, 0, 1], [0, 0, 1, 0], [-1, -1, -1, -1]]])
    shape_colour = presence(things)[0, :120].reshape(10, 12)
    assert shape_colour.sum() == 2
    assert shape_colour[2, 3] == shape_colour[0, 0] == 1


def test_pairs_true_by_chance_are_found_as_the_queries_find_them() -> None:
    scenes = [sample_scene(i) for i in range(40)]
    captions = [caption(scene, kind, 3) for scene, kind in zip(scenes, ["short", "vague"] * 20, strict=True)]
    also = also_true(captions, scenes, np.stack([codes(scene) for scene in scenes]))
    wanted = [[i != j and c.query.matches(s) for j, s in enumerate(scenes)] for i, c in enumerate(captions)]
    assert also.tolist() == wanted
    assert also.any()


def test_contrastive_loss_of_a_case_worked_by_hand() -> None:
    unit = torch.eye(2)
    expected = float(torch.log(1 + torch.exp(torch.tensor(-2.0))))
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert contrastive(unit, unit, torch.tensor(2.0), none).item() == pytest.approx(expected, rel=1e-5)
    # Both captions are true of both scenes: the label is halved one way, and nothing is negative the other way.
    both = torch.tensor([[False, True], [True, False]])
    assert contrastive(unit, unit, torch.tensor(2.0), both).item() == pytest.approx((expected + 1) / 2, rel=1e-5)


def test_muon_brings_matrices_near_orthogonal_ones() -> None:
    torch.manual_seed(0)
    for shape in ((2, 24, 96), (2, 96, 24)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape), rounds=5))
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_a_saved_encoder_loads_with_transformers_alone_and_gives_the_same_vectors(tmp_path: Path) -> None:
    model = build_encoder(1).eval()
    save_encoder(model, tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a large red circle", "Two striped STARS!", "a zebra, on a plain background"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    assert tokens["input_ids"][0].tolist()[0] == START_ID
    assert (tokens["input_ids"] == END_ID).sum(dim=1).tolist() == [1, 1, 1]
    assert tokens["input_ids"][0].tolist()[-1] == PAD_ID
    assert UNKNOWN_ID in tokens["input_ids"][2]
    assert UNKNOWN_ID not in tokens["input_ids"][1]
    with torch.inference_mode():
        pooled = loaded.text_model(**tokens).pooler_output
        vectors = torch.nn.functional.normalize(loaded.text_projection(pooled), dim=-1)
    assert torch.allclose(vectors, encode_texts(model, texts), atol=2e-3)
    assert CLIPImageProcessor.from_pretrained(tmp_path).crop_size == {"height": 72, "width": 72}
