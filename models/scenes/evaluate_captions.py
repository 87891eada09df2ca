"""``sightline eval captions``: what each recipe's captions are worth, beside those of the plain captioner.

Held-out scenes, the bundled models, and a judge that no recipe is rewarded by: the dual encoder of another seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.captioner import load_captioner
from models.checkpoint import JUDGE_ID, bundled_model
from models.detector import load_detector
from models.encoder import load_encoder
from models.errors import ModelError
from models.matcher import load_matcher
from models.recipes import Subject, Tools, UnknownRecipe, load_recipe
from models.recipes.judge import Candidate, judge
from models.recipes.local import LocalMatcher, LocalVectors

from .caption_truth import told_by
from .captions import caption
from .card import verify
from .evaluate import THINGS, Encoder, pictures
from .parse import parse
from .query import Query
from .recall import Figure, figure, hits_at
from .sample import sample_scene
from .scene import Scene
from .vocabulary import COLOURS, SHAPES

PLAIN: Final = "describe"
STUFFED: Final = "keyword stuffing (control)"
STUFFED_WORDS: Final = 8
NEIGHBOURS: Final = 20
WORD_SHARE: Final = 4
"""One scene with a painted word for so many others."""

Tell = Callable[[str, float], None]
Column = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """One recipe with its parameters.

    Args:
        name: in the table.
        recipe: of `models.recipes`.
        params: all of them; `sightline` fills in the defaults.
        boxes: where the detector's findings come from: the bundled detector, or the truth.
        words: on scenes with a painted word, to see whether they are found by it; else on all scenes.
    """

    name: str
    recipe: str
    params: Mapping[str, Any]
    boxes: str = "detector"
    words: bool = False


@dataclass
class Columns:
    """What was measured of one arm: a value for each scene, over all seeds."""

    values: dict[str, list[Column]] = field(default_factory=dict)
    failed: int = 0

    def add(self, **measured: Sequence[float] | Column) -> None:
        """The values of another seed's scenes."""
        for name, column in measured.items():
            self.values.setdefault(name, []).append(np.asarray(column, dtype=np.float64))

    def column(self, name: str) -> Column:
        """All values of one figure."""
        return np.concatenate(self.values[name])

    def per_seed(self, name: str) -> list[float]:
        """The mean of each seed."""
        return [round(float(column.mean()), 4) for column in self.values[name]]


@dataclass(frozen=True)
class Gallery:
    """The scenes of a seed, as recipes and the judge see them."""

    scenes: list[Scene]
    subjects: list[Subject]
    queries: list[str]
    images: NDArray[np.float32]

    @classmethod
    def draw(cls, scenes: list[Scene], numbers: Sequence[int], rewarder: LocalVectors, judging: Encoder) -> Gallery:
        """Render and encode them."""
        shown = pictures(scenes)
        images = [np.asarray(picture) for picture in shown]
        vectors = rewarder.images(images)
        near = np.argsort(-(vectors @ vectors.T - 2 * np.eye(len(vectors))), axis=1, kind="stable")[:, :NEIGHBOURS]
        subjects = [
            Subject(
                n, f"scene {number}", image, vector=vectors[n], neighbours=vectors[near[n][: len(images) - 1]],
                neighbour_ids=tuple(int(i) for i in near[n][: len(images) - 1]),
            ) for n, (number, image) in enumerate(zip(numbers, images, strict=True))
        ]  # fmt: skip
        queries = [caption(scene, "full", number).text for number, scene in zip(numbers, scenes, strict=True)]
        return cls(scenes, subjects, queries, judging.images(shown))


class TrueBoxes:
    """A detector that knows the truth of the scenes: colour and shape of each thing, with its box."""

    name = "detector"
    trusted = 0.0  # the truth is always believed

    def __init__(self) -> None:
        self._scenes: dict[bytes, Scene] = {}

    def learn(self, gallery: Gallery) -> None:
        """Remember scenes by their pictures."""
        for scene, subject in zip(gallery.scenes, gallery.subjects, strict=True):
            self._scenes[hashlib.sha256(subject.image.tobytes()).digest()] = scene

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        """See `models.experts.finding.Expert`."""
        from models.experts.finding import Finding

        known = [self._scenes[hashlib.sha256(image.tobytes()).digest()] for image in images]
        return [
            [Finding(self.name, "thing", f"{thing.colour} {thing.shape}", 1.0, thing.box) for thing in scene.things]
            for scene in known
        ]


def evaluate_captions(
    arms: Sequence[Arm], *, seeds: Sequence[int], count: int, split: str = "test", tell: Tell
) -> dict[str, Any]:
    """The table as JSON types: rows by arm, what was left out, and what misses its target.

    Args:
        arms: what to compare; one must be plain `describe`.
        seeds: 0 to 999; each has ``count`` scenes of its own.
        count: scenes of a seed, at least 20.

    Raises:
        ValueError: seeds or counts outside the range.
        WeightsRefused, ModelError: weights that are not those of their card.
    """
    if not seeds or not all(0 <= seed < 1000 for seed in seeds) or not 20 <= count <= 10_000:
        raise ValueError(f"seeds must be 0 to 999 and count 20 to 10,000, got {list(seeds)} and {count}")
    tell("loading", 0.0)
    bench = _Bench()
    columns: dict[str, Columns] = {}
    absent: dict[str, str] = {}
    steps = len(seeds) * (len(arms) + 2)
    for turn, seed in enumerate(seeds):
        gallery, worded = bench.galleries(seed, count, split)
        for place, arm in enumerate(arms):
            tell(f"seed {seed}: {arm.name}", (turn * (len(arms) + 2) + place + 1) / steps)
            if arm.name not in absent:
                try:
                    bench.measure(arm, worded if arm.words else gallery, columns.setdefault(arm.name, Columns()))
                except (UnknownRecipe, ImportError, _Absent) as error:
                    absent[arm.name] = str(error)
                    columns.pop(arm.name, None)
        tell(f"seed {seed}: {STUFFED}", (turn * (len(arms) + 2) + len(arms) + 1) / steps)
        bench.stuff(gallery, next(arm for arm in arms if arm.recipe == "best-of-n"), columns)
    where = (
        f"{len(seeds)} seeds of {count} scenes of the split {split} ({THINGS[0]}-{THINGS[1]} things; seeds "
        f"{', '.join(map(str, seeds))}), {count // WORD_SHARE} more with a painted word each; judged by {JUDGE_ID}. "
        "Ties count against us; 95 % intervals by bootstrap over scenes, differences from plain paired."
    )
    return _report(where, columns, absent, {arm.name for arm in arms if arm.words})


class _Absent(Exception):
    """An arm that needs what is not installed here."""


class _Bench:
    """The models, loaded once, and how arms are run with them."""

    def __init__(self) -> None:
        verify(bundled_model(JUDGE_ID))
        self.judge = Encoder(bundled_model(JUDGE_ID))
        self.rewarder = LocalVectors(load_encoder("bundled", device="cpu"))
        self.captioner = load_captioner(device="cpu")
        self.truth = TrueBoxes()
        given: dict[str, Callable[[], Any]] = {
            "captioner": lambda: self.captioner,
            "encoder": lambda: self.rewarder,
            "matcher": lambda: LocalMatcher(load_matcher(device="cpu")),
            "ocr": _reader,
        }
        self._tools = {
            "detector": Tools(**given, detector=_detector),
            "truth": Tools(**given, detector=lambda: self.truth),
        }
        self.plain: dict[int, list[str]] = {}

    def galleries(self, seed: int, count: int, split: str) -> tuple[Gallery, Gallery]:
        """The scenes of a seed, and others of it that all have a painted word."""
        numbers = range(seed * count, (seed + 1) * count)
        scenes = [sample_scene(n, split_name=split, things=THINGS) for n in numbers]
        worded = []
        for number in range(10_000_000 + seed * 100 * count, 10_000_000 + (seed + 1) * 100 * count):
            scene = sample_scene(number, split_name=split, things=THINGS)
            if scene.word is not None:
                worded.append((number, scene))
            if len(worded) == count // WORD_SHARE:
                break
        made = (
            Gallery.draw(scenes, numbers, self.rewarder, self.judge),
            Gallery.draw([scene for _, scene in worded], [n for n, _ in worded], self.rewarder, self.judge),
        )
        for gallery in made:
            self.truth.learn(gallery)
        return made

    def measure(self, arm: Arm, gallery: Gallery, columns: Columns) -> None:
        """Run one arm on the scenes of a seed."""
        recipe, params = load_recipe(arm.recipe), SimpleNamespace(**arm.params)
        subjects = gallery.subjects
        if arm.recipe == "counterfactual":
            subjects = [
                Subject(one.item_id, one.name, one.image, own=(query,))
                for one, query in zip(subjects, gallery.queries, strict=True)
            ]
        answers = recipe.write(subjects, self._tools[arm.boxes], params)
        columns.failed += sum(isinstance(answer, ModelError) for answer in answers)
        written = [[] if isinstance(answer, ModelError) else answer for answer in answers]
        if arm.recipe == "counterfactual":
            wrong = [
                [_is_false(one.text, scene) for one in each]
                for each, scene in zip(written, gallery.scenes, strict=True)
            ]
            columns.add(**{"negatives that are false": [truth for each in wrong for truth in each]})
            return
        texts = [each[0].text if each else "" for each in written]
        if arm.words:
            self._by_word(texts, gallery, columns)
        else:
            self._all(texts, gallery, columns)
        if arm.name == PLAIN:
            self.plain[id(gallery)] = texts

    def stuff(self, gallery: Gallery, arm: Arm, columns: dict[str, Columns]) -> None:
        """The control: plain captions with the words behind them that the rewarding encoder likes best of an image.

        A recipe that chose captions by that encoder alone would take them; `best-of-n` must not.
        """
        vocabulary = [*COLOURS, *SHAPES]
        words = self.rewarder.texts(vocabulary)
        plain = self.plain[id(gallery)]
        liked = np.argsort([-(words @ subject.vector) for subject in gallery.subjects], axis=1, kind="stable")
        texts = [
            f"{text} {' '.join(vocabulary[i] for i in row[:STUFFED_WORDS])}"
            for text, row in zip(plain, liked, strict=True)
        ]
        found = columns.setdefault(STUFFED, Columns())
        self._all(texts, gallery, found)
        vectors, plain_vectors = self.rewarder.texts(texts), self.rewarder.texts(plain)
        pixels = [self.captioner.prepare_image(subject.image) for subject in gallery.subjects]
        likelihood = [self.captioner.likelihood(pixels, told) for told in (plain, texts)]
        cosine, taken = [], []
        for n, subject in enumerate(gallery.subjects):
            assert subject.vector is not None
            pool = [Candidate(plain[n], likelihood[0][n]), Candidate(texts[n], likelihood[1][n])]
            both = np.stack([plain_vectors[n], vectors[n]])
            scores = [one.score for one in judge(pool, both, subject.vector, subject.neighbours, _params(arm))]
            taken.append(scores[1] > scores[0])
            cosine.append(float(vectors[n] @ subject.vector) > float(plain_vectors[n] @ subject.vector))
        found.add(**{"the bare cosine takes it": cosine, "best-of-n takes it": taken})

    def _all(self, texts: list[str], gallery: Gallery, columns: Columns) -> None:
        told = [told_by(text, scene) for text, scene in zip(texts, gallery.scenes, strict=True)]
        vectors, asked = self.judge.texts(texts), self.judge.texts(gallery.queries)
        own = np.arange(len(texts))
        columns.add(
            named=[one.share for one in told],
            false=[one.false for one in told],
            false_share=[one.false_share for one in told],
            found=hits_at(asked @ vectors.T, own, 1),
            tells_apart=hits_at(vectors @ gallery.images.T, own, 1),
            words=[len(text.split()) for text in texts],
        )

    def _by_word(self, texts: list[str], gallery: Gallery, columns: Columns) -> None:
        """Ask for the word alone: is the first caption by the judge's vectors that of a scene which bears it?

        And does a caption name its own word? Then a search by words finds it.
        """
        asked = self.judge.texts([Query(word=scene.word).text() for scene in gallery.scenes])
        scores = asked @ self.judge.texts(texts).T
        words = np.array([scene.word for scene in gallery.scenes])
        right = words[:, None] == words[None, :]
        said = [parse(text) for text in texts]
        named = [one is not None and one.word == word for one, word in zip(said, words, strict=True)]
        # Of equal scores the wrong ones come first.
        first = np.array([np.lexsort((row, -score))[0] for row, score in zip(right, scores, strict=True)])
        columns.add(
            found_by_word=right[np.arange(len(words)), first],
            named_word=named,
        )


def _params(arm: Arm) -> SimpleNamespace:
    return SimpleNamespace(**arm.params)


def _is_false(text: str, scene: Scene) -> bool:
    query = parse(text)
    return query is not None and not query.matches(scene)


def _detector() -> Any:
    try:
        from models.experts.things import SceneExpert
    except ImportError as error:
        raise _Absent(str(error)) from error
    return SceneExpert(load_detector(device="cpu"))


def _reader() -> Any:
    try:
        from models.experts.ocr import TextReader

        return TextReader()
    except (ImportError, ModelError) as error:
        raise _Absent(str(error)) from error


def _report(where: str, columns: Mapping[str, Columns], absent: Mapping[str, str], worded: set[str]) -> dict[str, Any]:
    plain = columns[PLAIN]
    rows = dict(_rows(columns, plain))
    missed = []
    if rows[STUFFED]["gain"]:
        missed.append(f"{STUFFED}: it wins")
    if rows[STUFFED]["figures"]["best-of-n takes it"]["value"] > 0.05:
        missed.append(f"{STUFFED}: best-of-n takes it")
    with_words = [columns[name] for name in columns if name in worded]
    if len(with_words) > 1:
        without, read = with_words[0].column("named_word"), with_words[-1].column("named_word")
        if figure(read - without).low <= 0:
            missed.append("painted words: reading them finds no more")
    return {"where": where, "rows": rows, "absent": dict(absent), "missed": missed}


def _rows(columns: Mapping[str, Columns], plain: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm's figures, how they differ from plain (paired), and whether that is a gain.

    A gain: more true attributes named, no larger share of false ones, and images found oftener through the captions,
    each beyond its 95 % interval (for the false ones: not beyond it).
    """
    for name, found in columns.items():
        figures = {what: figure(found.column(what)) for what in found.values}
        row: dict[str, Any] = {
            "figures": {what: _told(value, found.per_seed(what)) for what, value in figures.items()},
            "failed": found.failed,
            "gain": None,
        }
        if "named" in figures and name != PLAIN:
            differs = {what: figure(found.column(what) - plain.column(what)) for what in plain.values}
            row["differs"] = {what: value.to_json() for what, value in differs.items()}
            beyond = differs["named"].low > 0 and differs["found"].low > 0
            row["gain"] = bool(beyond and differs["false_share"].low <= 0)
        yield name, row


def _told(value: Figure, seeds: list[float]) -> dict[str, Any]:
    return {**value.to_json(), "seeds": seeds}
