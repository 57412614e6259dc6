"""Blocks as one HTML page that holds its figures, style and scripts, and needs nothing outside itself."""

import base64
import html
import json
import re
from collections.abc import Sequence

from nuclei.report.assets import read_asset
from nuclei.report.blocks import (
    Block,
    Browser,
    Code,
    Files,
    FillIn,
    Heading,
    Link,
    Missing,
    Paragraph,
    Picture,
    References,
    Subheading,
    Table,
)
from nuclei.report.markdown import describe

WRAPPED_CHARACTERS = 32  # a cell of text beyond this may be broken into lines
BROAD_PX = 1000  # a picture beyond this is not shrunk to the width of a phone
SORTED_ROWS = 3  # a table of so many rows can be sorted


def render_html(title: str, blocks: list[Block]) -> str:
    """Return the report as one HTML page; of what lies outside it, it shows at most the pictures of a Browser."""
    links = [f'<a href="#{anchor(b.text)}">{html.escape(b.text)}</a>' for b in blocks if isinstance(b, Heading)]
    browses = any(isinstance(block, Browser) for block in blocks)
    style = [read_asset("page.css"), *([read_asset("browser.css")] if browses else [])]
    scripts = [read_asset("tables.js"), *([read_asset("browser.js")] if browses else [])]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            *(f"<style>\n{text}\n</style>" for text in style),
            "</head>",
            "<body>",
            f"<h1>{html.escape(title)}</h1>",
            *([f'<nav aria-label="Contents">{"".join(links)}</nav>'] if links else []),
            *map(render_part, blocks),
            *(f"<script>\n{text}\n</script>" for text in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def anchor(text: str) -> str:
    """Return the name by which a heading is linked to: lower case words joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def render_part(block: Block) -> str:
    """Return one block as HTML."""
    match block:
        case Heading(text):
            return f'<h2 id="{anchor(text)}">{html.escape(text)}</h2>'
        case Subheading(text):
            return f"<h3>{html.escape(text)}</h3>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Code(text):
            return f"<pre><code>{html.escape(text)}</code></pre>"
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Files(files):
            # Named, not linked: the page must still be whole where it is sent to without its neighbours.
            items = (
                f"<li><code>{html.escape(path.removeprefix('../'))}</code>: {html.escape(what)}</li>"
                for what, path in files
            )
            return f"<ul>{''.join(items)}</ul>"
        case Missing(what):
            return f'<p class="missing"><strong>missing:</strong> <code>{html.escape(what)}</code></p>'
        case FillIn(what):
            return f'<p class="fill-in"><strong>to be filled in:</strong> {html.escape(what)}</p>'
        case References(sources):
            items = (
                f'<li>{html.escape(what)} <a href="{html.escape(address)}">{html.escape(address)}</a></li>'
                for what, address in sources
            )
            return f"<ol>{''.join(items)}</ol>"
        case Browser():
            return _browser(block)


def _text(text: str) -> str:
    """Escape running text, mark its code, and keep its percent signs with their numbers."""
    escaped = html.escape(text).replace(" %", "&nbsp;%")
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col" class="{"text" if i < table.n_text else "number"}">{html.escape(name)}</th>'
        for i, name in enumerate(table.columns)
    )
    body = "\n".join(f"<tr>{''.join(_cells(row, table.n_text))}</tr>" for row in table.rows)
    kind = ' class="sortable"' if len(table.rows) >= SORTED_ROWS else ""
    return (
        f'<div class="scroll{" tall" if table.tall else ""}"><table{kind}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cells(row: Sequence[str], n_text: int) -> list[str]:
    """Return the cells of a row, of which the first is its heading."""
    kinds = ["wrap" if len(cell) > WRAPPED_CHARACTERS else "text" for cell in row[:n_text]]
    kinds += ["number"] * (len(row) - n_text)
    tags = ['th scope="row"', *["td"] * (len(row) - 1)]
    return [
        f'<{tag} class="{kind}">{_cell(cell)}</{tag.split()[0]}>'
        for tag, kind, cell in zip(tags, kinds, row, strict=True)
    ]


def _cell(text: str) -> str:
    shown = html.escape(text)
    return f'<a href="{html.escape(text.address)}">{shown}</a>' if isinstance(text, Link) else shown


def _picture(picture: Picture) -> str:
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode()
    width, height = (int.from_bytes(picture.png[i : i + 4], "big") for i in (16, 20))
    image = (
        f'<img class="{"chart" if picture.chart else "sheet"}" src="{source}" alt="{html.escape(describe(picture))}" '
        f'width="{width}" height="{height}">'
    )
    kind = "wide" if picture.wide else "broad" if width > BROAD_PX else "plain"
    return (
        f'<figure class="{kind}"><div class="scroll">{image}</div>'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _browser(browser: Browser) -> str:
    content = {
        "folder": browser.folder,
        "rows": list(browser.rows),
        "kinds": list(browser.kinds),
        "layers": {name: dict(legend) for name, legend in browser.layers.items()},
        "command": browser.command,
        "caseCommand": browser.case_command,
    }
    # Within a script nothing is escaped but what would end it.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="browser"></div>\n<script type="application/json" class="browser-data">{data}</script>\n'
        "<noscript><p>The browser of images needs JavaScript; the scores of all images are in the run's "
        "<code>per_image.csv</code>.</p></noscript>"
    )
