"""The mean average precision of detections, each class (colour and shape) being a query of ir-measures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from models.experts.finding import overlap

from .detector import Detection
from .recall import Figure, figure, measured
from .scene import Scene


def mean_average_precision(found: Sequence[Sequence[Detection]], scenes: Sequence[Scene], least: float = 0.5) -> Figure:
    """Average precision, without interpolation, of each class that the scenes hold, and their mean.

    A detection is right if a thing of its class, not yet taken by a better one, overlaps it by ``least`` or more; it
    takes the one that it overlaps most. Of equal scores the wrong detections come first. The interval is a bootstrap
    over classes.
    """
    right: dict[str, dict[str, int]] = defaultdict(dict)
    for image, scene in enumerate(scenes):
        for index, thing in enumerate(scene.things):
            right[f"{thing.colour} {thing.shape}"][f"{image} {index}"] = 1
    hits = _matched(found, scenes, least)
    runs: dict[str, dict[str, float]] = defaultdict(dict)
    # Ranks instead of scores, so that the library never meets a tie.
    for rank, (_, detection, name) in enumerate(sorted(hits, key=lambda hit: (-hit[1].score, hit[0]))):
        runs[f"{detection.colour} {detection.shape}"][name] = -float(rank)
    return figure(measured("AP", right, {name: runs[name] for name in right if name in runs}))


def _matched(
    found: Sequence[Sequence[Detection]], scenes: Sequence[Scene], least: float
) -> list[tuple[bool, Detection, str]]:
    """(whether it is right, the detection, the name of the thing it took or one of its own)."""
    out = []
    for image, (detections, scene) in enumerate(zip(found, scenes, strict=True)):
        taken: set[int] = set()
        for number, detection in enumerate(sorted(detections, key=lambda one: -one.score)):
            free = [
                (overlap(detection.box, thing.box), index)
                for index, thing in enumerate(scene.things)
                if index not in taken and thing.fits(colour=detection.colour, shape=detection.shape)
            ]
            best, index = max(free, default=(0.0, -1))
            right = best >= least
            if right:
                taken.add(index)
            out.append((right, detection, f"{image} {index}" if right else f"{image} no {number}"))
    return out


def counted(found: Sequence[Sequence[Detection]], scenes: Sequence[Scene], score: float = 0.5) -> Figure:
    """Share of images in which as many things are found, with that score or more, as there are."""
    return figure(
        np.array([
            sum(one.score >= score for one in detections) == len(scene)
            for detections, scene in zip(found, scenes, strict=True)
        ])
    )  # fmt: skip
