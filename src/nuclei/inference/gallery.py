"""The page of segmented images: thumbnails whose outlines switch on and off, and a table to sort, in one HTML file."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.data.images import encode_image_png, stretch_contrast
from nuclei.data.labels import find_outlines
from nuclei.inference.exports import colour_neighbours

THUMBNAIL_PX = 240  # the longer side
GENERATOR = '<meta name="generator" content="nuclei predict-images">'
# Column of the summary -> its heading. Numbers are sorted as such, and stand on the right.
HEADINGS = {
    "image": "Image",
    "state": "State",
    "nuclei": "Nuclei",
    "width": "Width",
    "height": "Height",
    "pixel_size_um": "µm / pixel",
    "diameter_px": "Diameter (px)",
    "axes": "Axes",
    "channel": "Channel",
    "plane": "Plane",
    "values": "Values",
    "normalisation": "Normalisation",
    "seconds": "Seconds",
    "why": "Why",
}
NUMBERS = ("nuclei", "width", "height", "pixel_size_um", "diameter_px", "seconds")
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
$generator
<title>Nuclei</title>
<style>
:root { color-scheme: light dark; --line: #8884; --muted: light-dark(#666, #aaa); --bad: light-dark(#b00020, #ff8a80) }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem auto; max-width: 100rem; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 0 .5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .6rem; text-align: left; vertical-align: top }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: 0; cursor: pointer; color: inherit }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
td.number { text-align: right; font-variant-numeric: tabular-nums }
td.axes, td.values { white-space: nowrap }
td.why { min-width: 14rem }
td small, td.failed { overflow-wrap: anywhere }
td small { display: inline-block; min-width: 12rem } td a { white-space: nowrap }
small { color: var(--muted) } .failed { color: var(--bad) }
figure { position: relative; margin: 0; width: max-content }
figure img { display: block } figure img + img { position: absolute; inset: 0 }
body:has(#outlines:not(:checked)) figure img + img { display: none }
</style></head><body>
<h1>$title</h1>
<p><label><input type="checkbox" id="outlines" checked> outlines</label></p>
<div class="scroll"><table><thead><tr><th>Picture</th>$headings</tr></thead>
<tbody>
$rows
</tbody></table></div>
<script>
const body = document.querySelector("tbody");
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.key ?? row.cells[column].innerText;
  const order = new Intl.Collator(undefined, {numeric: true});
  const compare = head.dataset.kind === "number"
    ? (a, b) => (key(a) === "" ? -Infinity : +key(a)) - (key(b) === "" ? -Infinity : +key(b)) || 0
    : (a, b) => order.compare(key(a), key(b));
  body.append(...[...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a)));
};
</script></body></html>
""")


def draw_thumbnails(image: NDArray[np.uint8], labels: NDArray[Any]) -> list[str]:
    """Draw an image, uint8 [H, W, 3], and over it the outlines of its labels, int [H, W], as two small data addresses.

    Dark images are brightened; the longer side is THUMBNAIL_PX at most.
    """
    height, width = labels.shape
    scale = min(1.0, THUMBNAIL_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(stretch_contrast(image), size, interpolation=cv2.INTER_AREA)
    small_labels = labels[_sample(height, size[1])][:, _sample(width, size[0])]
    edge = find_outlines(small_labels, 1)
    drawn = np.zeros((*small_labels.shape, 4), np.uint8)
    drawn[edge, :3] = colour_neighbours(small_labels)[small_labels[edge]]
    drawn[edge, 3] = 255
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return [_data_address("jpeg", jpeg), _data_address("png", encode_image_png(drawn))]


def _sample(size: int, wanted: int) -> NDArray[np.intp]:
    """Return the numbers of the rows, or columns, that lie at the middles of `wanted` equal parts."""
    return ((np.arange(wanted) + 0.5) * size / wanted).astype(np.intp)


def _data_address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def gallery_page(images: Sequence[Mapping[str, Any]], endings: Sequence[str]) -> str:
    """Return the page of images, each the record of its results with its row of the summary.

    endings: of the names of an image's results, which lie beside the page and are linked. It needs no network. Columns
    of which no image has a value are left out.
    """
    columns = [key for key in HEADINGS if any(image.get(key) not in (None, "") for image in images)]
    states = [image["state"] for image in images]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    nuclei = sum(image.get("nuclei", 0) for image in images)
    headings = "".join(
        f'<th data-kind="{"number" if key in NUMBERS else "text"}"><button>{HEADINGS[key]}</button></th>'
        for key in columns
    )
    rows = "\n".join(_row(image, columns, endings) for image in images)
    title = escape(f"{nuclei} nuclei in {len(images)} images ({counts})")
    return PAGE.substitute(generator=GENERATOR, title=title, headings=headings, rows=rows)


def _row(image: Mapping[str, Any], columns: Sequence[str], endings: Sequence[str]) -> str:
    pictures = "".join(
        f'<img src="{escape(address)}" alt="{alt}">'
        for address, alt in zip(image.get("thumbnails", []), ("image", "outlines of its nuclei"), strict=False)
    )
    cells = "".join(_cell(key, image, endings) for key in columns)
    return f"<tr><td><figure>{pictures}</figure></td>{cells}</tr>"


def _cell(key: str, image: Mapping[str, Any], endings: Sequence[str]) -> str:
    value = "" if image.get(key) is None else str(image[key])
    text = escape(value)
    if key in NUMBERS:
        return f'<td class="number">{text}</td>'
    if key in ("state", "why"):
        return f'<td class="{key} {escape(image["state"])}">{text}</td>'
    if key != "image":
        return f'<td class="{key}">{text}</td>'
    links = " ".join(
        f'<a href="{escape(quote(value + ending))}">{escape(ending.lstrip("_."))}</a>'
        for ending in endings
        if image.get("thumbnails")
    )
    return f'<td data-key="{text}"><b>{text}</b><br><small>{escape(str(image["file"]))}</small><br>{links}</td>'
