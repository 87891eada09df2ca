from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipForImageTextRetrieval

from models.scenes.blip import UNTRAINED, Blip, save_blip, start_from_encoder
from models.scenes.blip_data import BlipBatches, BlipRecipe
from models.scenes.encoder import scale_pixels
from models.scenes.render import render_array
from models.scenes.sample import sample_scene
from models.scenes.train import SHIPPED
from models.scenes.train_blip import BlipTrainer
from models.scenes.training import Batch, Phase, Plan


def plan(steps: int) -> Plan:
    return Plan(steps=steps, batch=6, first_share=0.2, warm_steps=5, workers=0, gallery=20)


def test_fifty_steps_from_an_empty_folder_let_the_loss_fall(tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        losses = BlipTrainer(tmp_path / "run", plan(50), start=SHIPPED).run(progress)
    assert len(losses) == 50
    # The image tower alone, then the texts too: another loss.
    assert np.mean(losses[6:10]) < 0.8 * losses[0]
    assert np.mean(losses[45:]) < 0.8 * np.mean(losses[10:14])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["step"] == 50


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        first = BlipTrainer(tmp_path, plan(2), start=SHIPPED)
        first.run(progress)
        second = BlipTrainer(tmp_path, plan(3), start=SHIPPED)
        second.resume()
        assert second.state.step == 2
        assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
        assert len(second.run(progress)) == 1


class Watched(BlipTrainer):
    """Keeps a weight at each moment when the rate has come down."""

    def __init__(self, out: Path) -> None:
        super().__init__(out, replace(plan(8), second_share=0.2, third_share=0.5, waves=2), start=SHIPPED)
        self.seen: list[torch.Tensor] = []

    def _step(self, batches: Iterator[Batch], phase: Phase) -> float:
        before = self.falls
        loss = super()._step(batches, phase)
        if self.falls > before:
            self.seen.append(self.model.state_dict()[ONE].clone())
        return loss


ONE = "text_decoder.bert.encoder.layer.0.attention.self.query.weight"


def test_what_is_written_is_the_mean_of_the_moments_when_the_rate_has_come_down(tmp_path: Path) -> None:
    trainer = Watched(tmp_path)
    with Progress(disable=True) as progress:
        trainer.run(progress)
    assert len(trainer.seen) == 3
    assert not torch.equal(trainer.seen[0], trainer.seen[2])
    written = load_file(tmp_path / "model" / "model.safetensors")[ONE]
    assert torch.allclose(written.float(), torch.stack(trainer.seen).mean(0), atol=1e-3)
    again = Watched(tmp_path)
    again.resume()
    assert again.mean.n_averaged == 3


def test_batches_are_the_same_in_every_run_and_hold_both_answers() -> None:
    one, two = iter(BlipBatches(BlipRecipe(batch=32))), iter(BlipBatches(BlipRecipe(batch=32)))
    first, again, second = next(one), next(two), next(one)
    assert torch.equal(first["pixels"], again["pixels"])
    assert not torch.equal(first["pixels"], second["pixels"])
    assert torch.equal(first["match"][2]["ids"], again["match"][2]["ids"])
    true = torch.cat([chunk["flags"] for chunk in first["match"]]).float().mean()
    assert 0.3 < true < 0.75


def test_most_captions_to_write_are_vague_and_some_have_no_image() -> None:
    batches = iter(BlipBatches(BlipRecipe(batch=256)))
    short, long = next(batches)["write"]
    assert len(short["ids"]) == round(0.7 * 256)
    assert short["ids"].shape[1] < 12
    assert 0.8 < torch.cat([short["flags"], long["flags"]]).float().mean() < 0.95


def test_a_tower_that_starts_from_an_encoder_already_tells_cells_apart() -> None:
    """A linear read-out of its patch tokens, fitted on some scenes, names the shapes of others."""
    scenes = [sample_scene(i, split_name="validation") for i in range(160)]
    pixels = scale_pixels(torch.from_numpy(np.stack([render_array(scene, 96) for scene in scenes])))
    right = {}
    for name in ("random", "started"):
        model = Blip(0)
        if name == "started":
            start_from_encoder(model, SHIPPED)
        with torch.inference_mode():
            tokens = model.images(pixels)[:, 1:].flatten(0, 1)
        from models.scenes.detector import place_classes

        colours = torch.from_numpy(np.stack([place_classes(scene)[:, 1] for scene in scenes])).flatten()
        train = slice(0, 1080)
        wanted = torch.nn.functional.one_hot(colours[train], 13).float()
        gram = tokens[train].T @ tokens[train] + 5 * torch.eye(tokens.shape[1])
        read = torch.linalg.solve(gram, tokens[train].T @ wanted)
        there = colours[1080:] > 0
        right[name] = float((tokens[1080:] @ read).argmax(1)[there].eq(colours[1080:][there]).float().mean())
    assert right["started"] > 0.8
    assert right["started"] > 2 * right["random"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Blip, Path]:
    model = Blip(3).eval()
    folder = tmp_path_factory.mktemp("blip")
    save_blip(model, folder)
    return model, folder


def test_one_checkpoint_loads_with_both_classes_of_transformers(saved: tuple[Blip, Path]) -> None:
    model, folder = saved
    texts = ["three shapes: a red circle, a blue star, a cross", "a red circle left of a zebra"]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    pixels = scale_pixels(torch.from_numpy(np.stack([render_array(sample_scene(i), 96) for i in range(2)])))
    writer, report = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    matcher, report = BlipForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert all(not getattr(matcher, name).weight.any() for name in UNTRAINED)
    with torch.inference_mode():
        images = model.images(pixels)
        own = model.match(tokens["input_ids"], images)[0]
        theirs = matcher.eval()(**tokens, pixel_values=pixels).itm_score
        assert torch.allclose(own, theirs, atol=2e-3)
        own = model.tell(tokens["input_ids"], images)[0]
        theirs = writer.eval()(input_ids=tokens["input_ids"], pixel_values=pixels).logits
        assert torch.allclose(own, theirs, atol=5e-3)


def test_the_checkpoint_is_small(saved: tuple[Blip, Path]) -> None:
    assert sum(path.stat().st_size for path in saved[1].iterdir()) < 12e6
