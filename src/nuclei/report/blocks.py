"""A report as a list of blocks, rendered as Markdown beside its figures or as one HTML file that holds them."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Subheading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Code:
    """Hold lines to be copied: commands, or checksums."""

    text: str


@dataclass(frozen=True)
class Table:
    """Hold cells as they are to be read; the columns after the first `n_text` hold numbers."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    n_text: int = 1


@dataclass(frozen=True)
class Picture:
    """Hold one figure: PNG bytes, to be filed as figures/<name>.png."""

    name: str
    png: bytes
    caption: str
    wide: bool = False  # several images side by side: not shrunk to the width of a phone


@dataclass(frozen=True)
class Files:
    """Name files that lie near the report: (what it is, path relative to the report's folder)."""

    files: list[tuple[str, str]]


@dataclass(frozen=True)
class Missing:
    """Name a missing artefact that a part of the report would have been made from."""

    what: str


@dataclass(frozen=True)
class FillIn:
    """Ask for what only a person can write."""

    what: str


@dataclass(frozen=True)
class References:
    """Name the sources of a report: (what it is, its address)."""

    sources: list[tuple[str, str]]


Block = Heading | Subheading | Paragraph | Code | Table | Picture | Files | Missing | FillIn | References
WRAPPED_CHARACTERS = 32  # a cell of text beyond this may be broken into lines
BROAD_PX = 1000  # a picture beyond this is not shrunk to the width of a phone
CSS = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9e2ec; --tint: #f5f7fa; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1.25rem 4rem; color: var(--ink); background: #fff;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.06rem; margin: 1.75rem 0 0.5rem; }
p, ol { max-width: 46rem; margin: 0.6rem 0; overflow-wrap: break-word; }
ol { padding-left: 1.6rem; }
li { margin: 0.25rem 0; }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; font-size: 0.92rem; }
a { color: var(--accent); }
figure { margin: 1.25rem 0; }
figure img { display: block; width: 100%; max-width: 46rem; height: auto; }
figure.wide img { max-width: 100%; }
figcaption { color: var(--soft); font-size: 0.9rem; max-width: 46rem; margin-top: 0.4rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.9rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.wrap { white-space: normal; min-width: 17rem; }
th { border-bottom: 2px solid var(--soft); }
th.number, td.number { text-align: right; }
tbody tr:nth-child(even) { background: var(--tint); }
.missing { border-left: 4px solid #d55e00; background: #fdf1ea; padding: 0.45rem 0.8rem; }
.fill-in { border-left: 4px solid var(--accent); background: #eaf4fb; padding: 0.45rem 0.8rem; }
pre { overflow-x: auto; background: var(--tint); border: 1px solid var(--line); padding: 0.6rem 0.8rem;
  font: 0.85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (max-width: 640px) {
  body { padding: 1rem 0.9rem 3rem; }
  h1 { font-size: 1.5rem; }
  figure.wide img { width: auto; max-width: none; min-width: 46rem; height: auto; }
  figure.broad img { max-width: none; min-width: 38rem; }
  td.wrap { min-width: 13rem; }
}
""".strip()


def render_markdown(title: str, blocks: list[Block]) -> str:
    """Return the report as Markdown that refers to figures/<name>.png."""
    return "\n\n".join([f"# {title}", *map(render_block, blocks)]) + "\n"


def render_html(title: str, blocks: list[Block]) -> str:
    """Return the report as one HTML page that refers to nothing outside itself."""
    links = [f'<a href="#{anchor(b.text)}">{html.escape(b.text)}</a>' for b in blocks if isinstance(b, Heading)]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>\n{CSS}\n</style>",
            "</head>",
            "<body>",
            f"<h1>{html.escape(title)}</h1>",
            f'<nav aria-label="Contents">{"".join(links)}</nav>',
            *map(_html, blocks),
            "</body>",
            "</html>",
            "",
        ]
    )


def anchor(text: str) -> str:
    """Return the name by which a heading is linked to: lower case words joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def describe(name: str) -> str:
    """Return the name of a figure as words."""
    return "figure: " + name.replace("_", " ")


def render_block(block: Block) -> str:
    """Return one block as Markdown."""
    match block:
        case Heading(text):
            return f"## {text}"
        case Subheading(text):
            return f"### {text}"
        case Paragraph(text):
            return text
        case Code(text):
            return f"```\n{text}\n```"
        case Table(columns, rows, n_text):
            rule = [":--" if i < n_text else "--:" for i in range(len(columns))]
            return "\n".join("| " + " | ".join(_cell(c) for c in row) + " |" for row in (columns, rule, *rows))
        case Picture(name, _, caption):
            return f"![{describe(name)}](figures/{name}.png)\n\n*{caption}*"
        case Files(files):
            return "\n".join(f"- [{path.removeprefix('../')}]({path}): {what}" for what, path in files)
        case Missing(what):
            return f"> **missing:** `{what}`"
        case FillIn(what):
            return f"> **to be filled in:** {what}"
        case References(sources):
            return "\n".join(f"{i}. {what} <{address}>" for i, (what, address) in enumerate(sources, start=1))


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f'<h2 id="{anchor(text)}">{html.escape(text)}</h2>'
        case Subheading(text):
            return f"<h3>{html.escape(text)}</h3>"
        case Paragraph(text):
            return f"<p>{_html_text(text)}</p>"
        case Code(text):
            return f"<pre><code>{html.escape(text)}</code></pre>"
        case Table(columns, rows, n_text):
            body = "\n".join(f"<tr>{_html_cells('td', row, n_text)}</tr>" for row in rows)
            head = f"<thead><tr>{_html_cells('th', columns, n_text)}</tr></thead>"
            return f'<div class="scroll"><table>{head}\n<tbody>\n{body}\n</tbody></table></div>'
        case Picture(name, png, caption, wide):
            source = "data:image/png;base64," + base64.b64encode(png).decode()
            width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
            image = f'<img src="{source}" alt="{html.escape(describe(name))}" width="{width}" height="{height}">'
            kind = "wide" if wide else "broad" if width > BROAD_PX else "chart"
            return (
                f'<figure class="{kind}"><div class="scroll">{image}</div>'
                f"<figcaption>{_html_text(caption)}</figcaption></figure>"
            )
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


def _html_text(text: str) -> str:
    """Escape running text, and keep its percent signs with their numbers."""
    return html.escape(text).replace(" %", "&nbsp;%")


def _html_cells(tag: str, cells: tuple[str, ...], n_text: int) -> str:
    kinds = ["wrap" if len(cell) > WRAPPED_CHARACTERS else "text" for cell in cells[:n_text]]
    kinds += ["number"] * (len(cells) - n_text)
    return "".join(
        f'<{tag} class="{kind}">{html.escape(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True)
    )
