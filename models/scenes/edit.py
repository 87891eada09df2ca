"""Edits of a scene in words ("make the circle blue", "add a red star", "without the square") and their exact result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .conditions import condition
from .query import Claim
from .sample import Dice, draw_kind, place
from .scene import Scene, Thing
from .vocabulary import COLOURS, GRID, HELD_OUT, RADII, SHAPES, SIZES, TEXTURES

EDITS: Final = ("change", "add", "remove", "swap")
MOST_THINGS: Final = 6


class EditError(ValueError):
    """The scene has nothing that the edit names, or no room for what it adds."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a scene.

    ``change`` gives every thing that fits ``target`` the attributes of ``to``; ``add`` adds a thing like ``to``
    (open attributes are drawn); ``remove`` takes away every thing that fits ``target``; ``swap`` lets the first
    thing that fits ``target`` and the first that fits ``to`` change places.
    """

    what: str
    target: Claim | None = None
    to: Claim | None = None

    def __post_init__(self) -> None:
        if self.what not in EDITS:
            raise EditError(f"unknown edit {self.what!r}; known are {', '.join(EDITS)}")
        if (self.what != "add" and self.target is None) or (self.what != "remove" and self.to is None):
            raise EditError(f"edit {self.what!r} lacks a target or a result")

    def text(self) -> str:
        """The edit in English words."""
        target = self.target.text().split(" ", 1)[1] if self.target else ""
        if self.what == "remove":
            return f"without the {target}"
        assert self.to is not None
        if self.what == "add":
            return f"add {self.to.text()}"
        if self.what == "swap":
            return f"swap the {target} and the {self.to.text().split(' ', 1)[1]}"
        given = " ".join(w for w in (self.to.size, self.to.texture, self.to.colour) if w is not None)
        return f"make the {target} {given}" if self.to.shape is None else f"turn the {target} into {self.to.text()}"

    def apply(self, scene: Scene, seed: int = 0) -> Scene:
        """The edited scene; everything that the edit does not name stays. Raises ``EditError``."""
        if self.what == "add":
            return _add(scene, _required(self.to), seed)
        chosen = [i for i, thing in enumerate(scene.things) if _required(self.target).fits(thing)]
        if not chosen:
            raise EditError(f"nothing in the scene fits {_required(self.target).text()!r}")
        if self.what == "remove":
            return _remove(scene, chosen)
        if self.what == "swap":
            return _swap(scene, chosen[0], _required(self.to))
        things = tuple(_changed(t, _required(self.to), scene, i) if i in chosen else t for i, t in enumerate(scene))
        return scene.with_things(things)


def _required(claim: Claim | None) -> Claim:
    assert claim is not None
    return claim


def _add(scene: Scene, to: Claim, seed: int) -> Scene:
    if len(scene) >= MOST_THINGS:
        raise EditError(f"a scene holds at most {MOST_THINGS} things")
    taken = {(int(t.x * GRID), int(t.y * GRID)) for t in scene}
    rows = [r for r in range(GRID) if scene.word is None or r != scene.word_row]
    free = [(c, r) for r in rows for c in range(GRID) if (c, r) not in taken]
    if not free:
        raise EditError("no free place is left in the scene")
    dice = Dice(f"add:{seed}")
    for _ in range(100):
        size, texture, colour, shape = draw_kind(dice, condition("uniform"))
        kind = (to.size or size, to.texture or texture, to.colour or colour, to.shape or shape)
        named = to.colour is not None and to.shape is not None
        if named or (kind[2], kind[3]) not in HELD_OUT:
            break
    return scene.with_things((*scene.things, place(dice, kind, *dice.pick(free))))


def _remove(scene: Scene, chosen: list[int]) -> Scene:
    if len(chosen) == len(scene):
        raise EditError("an edit must leave at least one thing")
    kept = [i for i in range(len(scene)) if i not in chosen]
    index = {old: new for new, old in enumerate(kept)}
    return scene.with_things(
        tuple(replace(scene.things[i], holder=index.get(scene.things[i].holder, -1)) for i in kept)
    )


def _changed(thing: Thing, to: Claim, scene: Scene, index: int) -> Thing:
    changed = replace(
        thing,
        shape=to.shape or thing.shape,
        colour=to.colour or thing.colour,
        size=to.size or thing.size,
        texture=to.texture or thing.texture,
    )
    if changed.size != thing.size:
        changed = replace(changed, radius=round(sum(RADII[changed.size]) / 2, 4))
        if thing.holder >= 0:
            raise EditError("a thing that lies inside another cannot grow")
    holds_another = any(t.holder == index for t in scene)
    open_inside = changed.shape == "ring" or (changed.shape in ("circle", "square") and changed.texture == "outlined")
    if holds_another and not (open_inside and changed.size == "large"):
        raise EditError(f"a {changed.size} {changed.texture} {changed.shape} cannot hold another thing")
    return _kept_inside(changed)


def _kept_inside(thing: Thing) -> Thing:
    """Move a thing that has grown back into its grid cell."""
    cell_x, cell_y = int(thing.x * GRID), int(thing.y * GRID)
    r = thing.radius
    x = min(max(thing.x, cell_x / GRID + r), (cell_x + 1) / GRID - r)
    y = min(max(thing.y, cell_y / GRID + r), (cell_y + 1) / GRID - r)
    return replace(thing, x=round(x, 4), y=round(y, 4))


def _swap(scene: Scene, first: int, to: Claim) -> Scene:
    others = [i for i, thing in enumerate(scene.things) if to.fits(thing) and i != first]
    if not others:
        raise EditError(f"nothing else in the scene fits {to.text()!r}")
    second = others[0]
    if any(t.holder in (first, second) for t in scene) or any(scene.things[i].holder >= 0 for i in (first, second)):
        raise EditError("things that hold others or lie inside others cannot change places")
    a, b = scene.things[first], scene.things[second]
    things = list(scene.things)
    things[first] = _kept_inside(replace(a, x=b.x, y=b.y))
    things[second] = _kept_inside(replace(b, x=a.x, y=a.y))
    return scene.with_things(tuple(things))


def random_edit(scene: Scene, seed: int) -> tuple[Edit, Scene]:
    """A drawn edit that the scene allows and that makes no held-out combination, and its result."""
    dice = Dice(f"edit:{seed}")
    for _ in range(50):
        edit = _draw(scene, dice)
        try:
            result = edit.apply(scene, seed)
        except EditError:
            continue
        if result != scene and (not result.held_out or scene.held_out):
            return edit, result
    raise EditError("the scene allows no edit")


def _draw(scene: Scene, dice: Dice) -> Edit:
    thing, other = dice.pick(scene.things), dice.pick(scene.things)
    target = Claim(thing.colour, thing.shape)
    what = dice.pick(EDITS, (6, 1, 1, 2))
    if what == "add":
        return Edit("add", None, Claim(dice.pick(tuple(COLOURS)), dice.pick(SHAPES)))
    if what == "remove":
        return Edit("remove", target)
    if what == "swap":
        return Edit("swap", target, Claim(other.colour, other.shape))
    to = dice.pick(
        (
            Claim(colour=dice.pick(tuple(COLOURS))),
            Claim(shape=dice.pick(SHAPES)),
            Claim(texture=dice.pick(TEXTURES)),
            Claim(size=dice.pick(SIZES)),
        )
    )
    return Edit("change", target, to)
