"""A self-contained HTML page of hits: pictures inline, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from PIL import Image, ImageOps

from sightline.client import Sightline
from sightline.errors import SightlineError
from sightline.results import Hit, Hits

THUMBNAIL = 192

_PAGE = Template(resources.files("sightline").joinpath("contact_sheet.html").read_text(encoding="utf-8"))


@dataclass
class Section:
    """One query and its hits; `right` says of each hit whether it is true to the query, where that is known."""

    title: str
    query: Hit | None
    hits: Hits
    right: list[bool] = field(default_factory=list)


def write_contact_sheet(client: Sightline, file: Path, title: str, subtitle: str, sections: list[Section]) -> None:
    """Write the page. A picture that cannot be read any more is shown as its reason.

    Raises:
        OSError: the file cannot be written.
    """
    body = "\n".join(_section(client, section) for section in sections)
    file.write_text(_PAGE.substitute(title=escape(title), subtitle=escape(subtitle), sections=body), encoding="utf-8")


def _section(client: Sightline, section: Section) -> str:
    figures = []
    for number, hit in enumerate(section.hits):
        mark = "" if not section.right else ' class="right"' if section.right[number] else ' class="wrong"'
        kinds = hit.metadata.get("kinds")
        about = ", ".join(map(str, kinds)) if isinstance(kinds, list) else ""
        figures.append(
            f"<li{mark}><figure>{_picture(client, hit)}<figcaption><b>{hit.score:.3f}</b> {escape(hit.external_id)}"
            f"<br>{escape(about)}</figcaption></figure></li>"
        )
    note = ""
    if section.right:
        note = f"<p>{sum(section.right)} of {len(section.right)} right by the scenes' truth</p>"
    empty = "" if figures else "<p>nothing found</p>"
    return f"<h2>{escape(section.title)}</h2>{note}{empty}<ol>{''.join(figures)}</ol>"


def _picture(client: Sightline, hit: Hit) -> str:
    try:
        with Image.open(io.BytesIO(client.image_bytes(hit.item_id))) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (SightlineError, OSError, Image.DecompressionBombError) as error:
        return f"<p>{escape(str(error))}</p>"
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    encoded = io.BytesIO()
    image.save(encoded, "webp", quality=80)
    data = base64.b64encode(encoded.getvalue()).decode()
    return f'<img alt="{escape(hit.external_id, quote=True)}" src="data:image/webp;base64,{data}">'
