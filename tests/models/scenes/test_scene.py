from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from models.scenes.conditions import SPLITS
from models.scenes.sample import sample_scene, twin
from models.scenes.scene import Scene
from models.scenes.vocabulary import HELD_OUT, SIZES

MANY = 1500


@pytest.mark.parametrize("condition", ["uniform", "zipf", "associated", "vague"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_held_out_combinations_never_appear_outside_their_split(condition: str, split: str) -> None:
    scenes = [sample_scene(i, condition_name=condition, split_name=split) for i in range(MANY)]
    assert not any((t.colour, t.shape) in HELD_OUT for scene in scenes for t in scene)


def test_every_scene_of_the_unseen_split_holds_a_held_out_combination() -> None:
    assert all(sample_scene(i, split_name="unseen").held_out for i in range(MANY))


def test_splits_have_disjoint_seeds_and_scenes() -> None:
    ranges = sorted((s.first, s.first + s.size) for s in SPLITS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    drawn = {name: {sample_scene(i, split_name=name) for i in range(MANY)} for name in SPLITS}
    names = list(drawn)
    assert all(drawn[a].isdisjoint(drawn[b]) for a in names for b in names if a != b)


def test_a_seed_gives_the_same_scene_again() -> None:
    assert [sample_scene(i) for i in range(50)] == [sample_scene(i) for i in range(50)]
    # Written down once: a change of the drawing would make shipped figures and demo hits wrong.
    first = sample_scene(0)
    assert [thing.kind for thing in first] == [
        ("large", "striped", "black", "arrow"),
        ("small", "dotted", "yellow", "arrow"),
        ("large", "plain", "brown", "ring"),
    ]


def test_the_number_of_things_stays_in_the_range_asked_for() -> None:
    assert {len(sample_scene(i)) for i in range(MANY)} == {1, 2, 3, 4, 5, 6}
    assert {len(sample_scene(i, things=(2, 4))) for i in range(MANY)} <= {2, 3, 4}
    with pytest.raises(ValueError, match="1-6"):
        sample_scene(0, things=(0, 7))


def test_things_do_not_overlap_unless_one_lies_inside_the_other() -> None:
    for scene in map(sample_scene, range(MANY)):
        for i, a in enumerate(scene):
            assert all(-1e-3 <= edge <= 1 + 1e-3 for edge in a.box)
            for j, b in enumerate(scene):
                if i < j and b.holder != i:
                    apart_x = abs(a.x - b.x) >= a.radius + b.radius - 1e-3
                    apart_y = abs(a.y - b.y) >= a.radius + b.radius - 1e-3
                    assert apart_x or apart_y


def test_a_thing_inside_another_is_smaller_and_at_its_middle() -> None:
    inner = [(s, t) for s in map(sample_scene, range(MANY)) for t in s if t.holder >= 0]
    assert inner
    for scene, thing in inner:
        holder = scene.things[thing.holder]
        assert holder.size == "large"
        assert thing.size == "small"
        assert (thing.x, thing.y) == (holder.x, holder.y)


def test_zipf_has_a_long_tail_and_associated_ties_star_to_yellow() -> None:
    zipf = [t for i in range(MANY) for t in sample_scene(i, condition_name="zipf")]
    assert sum(t.shape == "circle" for t in zipf) > 5 * sum(t.shape == "arrow" for t in zipf)
    tied = [t for i in range(MANY) for t in sample_scene(i, condition_name="associated") if t.shape == "star"]
    assert 0.85 < sum(t.colour == "yellow" for t in tied) / len(tied) < 1


def test_metadata_goes_through_json_and_back() -> None:
    for scene in map(sample_scene, range(200)):
        assert Scene.from_metadata(json.loads(json.dumps(scene.to_metadata()))) == scene


def test_has_and_count_follow_the_things() -> None:
    scene = sample_scene(0)
    assert scene.has(colour="brown", shape="ring")
    assert not scene.has(colour="brown", shape="arrow")
    assert scene.count(shape="arrow") == 2
    assert scene.count() == len(scene)
    assert sum(scene.count(size=size) for size in SIZES) == len(scene)


def test_a_twin_has_the_same_things_elsewhere_in_their_cells_on_another_background() -> None:
    for i, scene in enumerate(map(sample_scene, range(200))):
        other = twin(scene, i)
        assert [t.kind for t in other] == [t.kind for t in scene]
        assert [t.holder for t in other] == [t.holder for t in scene]
        assert (other.background.kind, other.background.tone) != (scene.background.kind, scene.background.tone)
        assert [(int(t.x * 3), int(t.y * 3)) for t in other] == [(int(t.x * 3), int(t.y * 3)) for t in scene]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="uniform"):
        sample_scene(0, condition_name="unifrom")
    with pytest.raises(ValueError, match="validation"):
        sample_scene(0, split_name="valid")
    with pytest.raises(IndexError):
        sample_scene(-1, split_name="test")


def test_the_example_in_the_readme_runs() -> None:
    text = (Path(__file__).parents[3] / "models" / "scenes" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102
    assert isinstance(names["scene"], Scene)
