"""What a file is, by its first bytes: never by its name."""

from __future__ import annotations

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Admitted. Everything else that Pillow could open stays shut: each decoder is one more door."""

_ADMITTED = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"II+\x00", "TIFF"), (b"MM\x00+", "TIFF"),
)  # fmt: skip
_REFUSED = (
    (b"%PDF-", "a PDF document"), (b"%!PS", "a PostScript document"), (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"), (b"\x1f\x8b", "a gzip archive"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"), (b"8BPS", "a Photoshop document"), (b"\x00\x00\x01\x00", "an icon (ICO)"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"), (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"), (b"\xff\x0a", "a JPEG XL image"), (b"qoif", "a QOI image"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"), (b"FLV\x01", "a Flash video"),
    (b"\x00\x00\x01\xba", "an MPEG video"), (b"\x00\x00\x01\xb3", "an MPEG video"),
    (b"\x30\x26\xb2\x75", "a Windows Media video"), (b"OggS", "an Ogg file"), (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"), (b"\x7fELF", "a program"), (b"MZ", "a program"), (b"SIMPLE  =", "a FITS image"),
    (b"P1\n", "a PBM image"), (b"P4\n", "a PBM image"), (b"P5\n", "a PGM image"), (b"P6\n", "a PPM image"),
)  # fmt: skip
_BRANDS = {
    b"heic": "a HEIC image", b"heix": "a HEIC image", b"hevc": "a HEIC image", b"mif1": "a HEIF image",
    b"msf1": "a HEIF image", b"avif": "an AVIF image", b"avis": "an AVIF image", b"qt  ": "a QuickTime video",
    b"crx ": "a Canon raw photograph",
}  # fmt: skip
_RIFF = {b"AVI ": "an AVI video", b"WAVE": "a WAV file"}


def admitted_format(data: bytes) -> str | None:
    """The admitted format that the content begins like, though it may be cut off or damaged."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP"[: len(data[8:12])]:
        return "WEBP"
    return next((found for magic, found in _ADMITTED if data.startswith(magic)), None)


def ends_early(data: bytes) -> bool:
    """Whether the header of an admitted format asks for more bytes than there are."""
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") + 2 > len(data)
    return len(data) < 64


def describe(data: bytes) -> str | None:
    """In words what the content is, of what people take for images; None if it is not recognised."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an MP4 video")
    if data[:4] == b"RIFF" and data[8:12] in _RIFF:
        return _RIFF[data[8:12]]
    found = next((words for magic, words in _REFUSED if data.startswith(magic)), None)
    return found or _describe_text(data[:1024])


def _describe_text(start: bytes) -> str | None:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # elsewhere than in a character that the cut went through
            return None
        text = start[: error.start].decode("utf-8")
    lowered = text.removeprefix("\ufeff").lstrip().lower()
    if "<svg" in lowered:
        return "an SVG drawing"
    if lowered.startswith(("<!doctype html", "<html")):
        return "a web page (HTML)"
    printable = all(char.isprintable() or char in "\t\n\r\f" for char in text)
    return "text" if printable and text.strip() else None
