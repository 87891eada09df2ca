from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.cross_encoder import CrossEncoder, load_cross_encoder
from models.errors import UnsupportedModel
from tests.kit.scorer import ScorerKit
from tests.models.tiny_scorers import build_bert_reranker, build_roberta_reranker

PASSAGES = ["a photo of a red cube", "the cat", "two small green spheres left of a large blue cone"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert_reranker(tmp_path_factory.mktemp("scorers") / "tiny-bert")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_roberta_reranker(tmp_path_factory.mktemp("scorers") / "tiny-roberta")


class TestBert(ScorerKit):
    @pytest.fixture
    def load(self, bert: Path) -> Callable[[], CrossEncoder]:
        return lambda: load_cross_encoder(str(bert), device="cpu")


class TestRoberta(ScorerKit):
    @pytest.fixture
    def load(self, roberta: Path) -> Callable[[], CrossEncoder]:
        return lambda: load_cross_encoder(str(roberta), device="cpu")


def _theirs(folder: Path, query: str, passages: list[str]) -> np.ndarray:
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)([query] * len(passages), passages, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return network(**tokens).logits.numpy()


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_score_is_the_logistic_of_what_transformers_gives(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    scorer = load_cross_encoder(str(folder), device="cpu")
    query = scorer.prepare("RED shoes!", "query")
    found = scorer.score(query, [scorer.prepare(passage, "candidate") for passage in PASSAGES])
    logits = _theirs(folder, "RED shoes!", PASSAGES)[:, 0]
    assert np.abs(found - 1 / (1 + np.exp(-logits))).max() < 1e-5


def test_of_two_classes_the_second_is_relevant(tmp_path: Path) -> None:
    folder = build_bert_reranker(tmp_path / "two", labels=2)
    scorer = load_cross_encoder(str(folder), device="cpu")
    found = scorer.score(scorer.prepare("the cat", "query"), [scorer.prepare(p, "candidate") for p in PASSAGES])
    expected = torch.from_numpy(_theirs(folder, "the cat", PASSAGES)).softmax(-1)[:, 1].numpy()
    assert np.abs(found - expected).max() < 1e-5


def test_more_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="3 classes"):
        load_cross_encoder(str(build_bert_reranker(tmp_path / "three", labels=3)), device="cpu")


def test_how_much_of_a_candidate_is_read_does_not_depend_on_the_query(bert: Path) -> None:
    scorer = load_cross_encoder(str(bert), device="cpu")
    long = scorer.prepare("x " * 500, "query")
    candidate = scorer.prepare("y " * 500, "candidate")
    assert long.truncated
    assert candidate.truncated
    assert scorer.score(long, [candidate]).shape == (1,), "the longest pair fits the tower"
