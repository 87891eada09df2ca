"""Classifier-free guidance: words that this image has and others have not (Kornblith et al., arXiv 2307.16686)."""

from __future__ import annotations

from models.recipes.describe import Describe


class Guided(Describe):
    """As `describe`, each word chosen by log p(word) + gamma (log p(word | image) - log p(word)).

    Both branches run in one batch: with the image, and with its tokens as zeros, as the captioner learnt to write
    without an image. The likelihood that is stored is that of the words given the image.
    """
