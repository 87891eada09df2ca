"""The words for everything a caption says, in English, German and Spanish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LANGUAGES: Final = ("en", "de", "es")


@dataclass(frozen=True, slots=True)
class Noun:
    """Singular, plural and gender (m, f, n; empty in English)."""

    one: str
    many: str
    gender: str = ""


NOUNS: Final[dict[str, dict[str, Noun]]] = {
    "en": {s: Noun(s, s + "s") for s in ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "moon",
                                         "arrow")} | {"cross": Noun("cross", "crosses"), "": Noun("shape", "shapes")},
    "de": {
        "circle": Noun("Kreis", "Kreise", "m"), "square": Noun("Quadrat", "Quadrate", "n"),
        "triangle": Noun("Dreieck", "Dreiecke", "n"), "star": Noun("Stern", "Sterne", "m"),
        "heart": Noun("Herz", "Herzen", "n"), "cross": Noun("Kreuz", "Kreuze", "n"),
        "diamond": Noun("Raute", "Rauten", "f"), "ring": Noun("Ring", "Ringe", "m"),
        "moon": Noun("Mond", "Monde", "m"), "arrow": Noun("Pfeil", "Pfeile", "m"), "": Noun("Form", "Formen", "f"),
    },
    "es": {
        "circle": Noun("círculo", "círculos", "m"), "square": Noun("cuadrado", "cuadrados", "m"),
        "triangle": Noun("triángulo", "triángulos", "m"), "star": Noun("estrella", "estrellas", "f"),
        "heart": Noun("corazón", "corazones", "m"), "cross": Noun("cruz", "cruces", "f"),
        "diamond": Noun("rombo", "rombos", "m"), "ring": Noun("anillo", "anillos", "m"),
        "moon": Noun("luna", "lunas", "f"), "arrow": Noun("flecha", "flechas", "f"),
        "": Noun("figura", "figuras", "f"),
    },
}  # fmt: skip

ADJECTIVES: Final[dict[str, dict[str, str]]] = {
    "en": {},
    "de": {
        "red": "rot", "orange": "orange", "yellow": "gelb", "green": "grün", "teal": "petrol", "cyan": "türkis",
        "blue": "blau", "purple": "lila", "pink": "rosa", "brown": "braun", "black": "schwarz", "white": "weiß",
        "small": "klein", "large": "groß", "plain": "einfarbig", "striped": "gestreift", "dotted": "gepunktet",
        "outlined": "umrandet", "gradient": "verlaufend", "noisy": "verrauscht",
    },
    "es": {
        "red": "rojo", "orange": "naranja", "yellow": "amarillo", "green": "verde", "teal": "petróleo",
        "cyan": "turquesa", "blue": "azul", "purple": "morado", "pink": "rosa", "brown": "marrón", "black": "negro",
        "white": "blanco", "small": "pequeño", "large": "grande", "plain": "liso", "striped": "rayado",
        "dotted": "punteado", "outlined": "contorneado", "gradient": "degradado", "noisy": "ruidoso",
    },
}  # fmt: skip

UNBENT: Final = frozenset({"orange", "petrol", "türkis", "lila", "rosa"})
"""German adjectives that take no ending."""

NUMBERS: Final[dict[str, tuple[str, ...]]] = {
    "en": ("no", "one", "two", "three", "four", "five", "six"),
    "de": ("keine", "eine", "zwei", "drei", "vier", "fünf", "sechs"),
    "es": ("ninguna", "una", "dos", "tres", "cuatro", "cinco", "seis"),
}

RELATION_WORDS: Final[dict[str, dict[str, str]]] = {
    "en": {"left of": "left of", "above": "above", "inside": "inside", "larger than": "larger than"},
    "de": {
        "left of": "weiter links als",
        "above": "weiter oben als",
        "inside": "und darum herum",
        "larger than": "größer als",
    },
    "es": {
        "left of": "a la izquierda de",
        "above": "encima de",
        "inside": "dentro de",
        "larger than": "más grande que",
    },
}

PHRASES: Final[dict[str, dict[str, str]]] = {
    "en": {"background": "on a {} background", "word": "with the word {}", "photo": "as a photo",
           "sketch": "as a sketch", "mosaic": "as a mosaic", "inverted": "in inverted colours"},
    "de": {"background": "auf {}em Hintergrund", "word": "mit dem Wort {}", "photo": "als Foto",
           "sketch": "als Skizze", "mosaic": "als Mosaik", "inverted": "in umgekehrten Farben"},
    "es": {"background": "sobre fondo {}", "word": "con la palabra {}", "photo": "como foto",
           "sketch": "como boceto", "mosaic": "como mosaico", "inverted": "en colores invertidos"},
}  # fmt: skip


def adjective(word: str, language: str, gender: str, *, plural: bool = False) -> str:
    """A colour, size or texture word, bent to its noun (German: nominative after an indefinite article)."""
    stem = ADJECTIVES[language].get(word, word)
    if language == "de":
        return stem if stem in UNBENT else stem + ("e" if plural else {"m": "er", "f": "e", "n": "es"}[gender])
    if language == "es":
        if gender == "f" and stem.endswith("o") and stem != "petróleo":
            stem = stem[:-1] + "a"
        if plural and stem not in ("naranja", "turquesa", "rosa", "petróleo"):
            stem = "marrones" if stem == "marrón" else stem + ("s" if stem[-1] in "aeo" else "es")
    return stem


def article(noun: Noun, language: str, following: str) -> str:
    """The indefinite article of a noun; in English by the sound of the word that follows."""
    if language == "en":
        return "an" if following[0] in "aeio" else "a"
    feminine = {"de": "eine", "es": "una"}[language]
    return feminine if noun.gender == "f" else {"de": "ein", "es": "un"}[language]
