"""A report as a list of blocks, rendered as Markdown beside its figures or as one HTML file that holds them."""

import base64
import html
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Table:
    """Hold cells as they are to be read; the columns after the first `n_text` hold numbers."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    n_text: int = 1


@dataclass(frozen=True)
class Picture:
    """Hold one figure: PNG bytes, to be filed as figures/<name>.png."""

    name: str
    png: bytes
    caption: str
    wide: bool = False  # of several images side by side: not to be shrunk to the width of a phone


@dataclass(frozen=True)
class Files:
    """Name files that lie near the report: (what it is, path relative to the report's folder)."""

    files: list[tuple[str, str]]


@dataclass(frozen=True)
class Missing:
    """Name an artefact that a part of the report would have been made from."""

    what: str


Block = Heading | Paragraph | Table | Picture | Files | Missing

CSS = """
:root { color-scheme: light; --ink: #1f2933; --soft: #52606d; --line: #d9e2ec; --tint: #f5f7fa; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1.25rem 4rem; color: var(--ink); background: #fff;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: 0.6rem 0; }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; font-size: 0.92rem; }
a { color: var(--accent); }
figure { margin: 1.25rem 0; }
figure img { display: block; width: 100%; max-width: 46rem; height: auto; }
figure.wide img { max-width: 100%; }
figcaption { color: var(--soft); font-size: 0.9rem; max-width: 46rem; margin-top: 0.4rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.9rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid var(--soft); }
th.number, td.number { text-align: right; }
tbody tr:nth-child(even) { background: var(--tint); }
.missing { border-left: 4px solid #d55e00; background: #fdf1ea; padding: 0.45rem 0.8rem; }
@media (max-width: 640px) {
  body { padding: 1rem 0.9rem 3rem; }
  h1 { font-size: 1.5rem; }
  figure.wide img { width: auto; max-width: none; min-width: 46rem; height: auto; }
}
""".strip()


def render_markdown(title: str, blocks: list[Block]) -> str:
    """Return the report as Markdown that refers to figures/<name>.png."""
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def render_html(title: str, blocks: list[Block]) -> str:
    """Return the report as one HTML page that refers to nothing outside itself."""
    links = [f'<a href="#{anchor(b.text)}">{html.escape(b.text)}</a>' for b in blocks if isinstance(b, Heading)]
    return "\n".join([
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f"<title>{html.escape(title)}</title>",
        f"<style>\n{CSS}\n</style>", "</head>", "<body>", f"<h1>{html.escape(title)}</h1>",
        f'<nav aria-label="Contents">{"".join(links)}</nav>', *map(_html, blocks), "</body>", "</html>", "",
    ])


def anchor(text: str) -> str:
    """Return the name by which a heading is linked to: lower case words joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def describe(name: str) -> str:
    """Return the name of a figure as words."""
    return "figure: " + name.replace("_", " ")


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text):
            return text
        case Table(columns, rows, n_text):
            rule = [":--" if i < n_text else "--:" for i in range(len(columns))]
            return "\n".join("| " + " | ".join(_cell(c) for c in row) + " |" for row in (columns, rule, *rows))
        case Picture(name, _, caption):
            return f"![{describe(name)}](figures/{name}.png)\n\n*{caption}*"
        case Files(files):
            return "\n".join(f"- [{path.removeprefix('../')}]({path}): {what}" for what, path in files)
        case Missing(what):
            return f"> **not there:** `{what}`"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f'<h2 id="{anchor(text)}">{html.escape(text)}</h2>'
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Table(columns, rows, n_text):
            body = "\n".join(f"<tr>{_html_cells('td', row, n_text)}</tr>" for row in rows)
            head = f"<thead><tr>{_html_cells('th', columns, n_text)}</tr></thead>"
            return f'<div class="scroll"><table>{head}\n<tbody>\n{body}\n</tbody></table></div>'
        case Picture(name, png, caption, wide):
            source = "data:image/png;base64," + base64.b64encode(png).decode()
            width, height = (int.from_bytes(png[i:i + 4], "big") for i in (16, 20))
            image = f'<img src="{source}" alt="{html.escape(describe(name))}" width="{width}" height="{height}">'
            return (f'<figure class="{"wide" if wide else "chart"}"><div class="scroll">{image}</div>'
                    f"<figcaption>{html.escape(caption)}</figcaption></figure>")
        case Files(files):
            # Named, not linked: the page must still be whole where it is sent to without its neighbours.
            items = (f"<li><code>{html.escape(path.removeprefix('../'))}</code>: {html.escape(what)}</li>"
                     for what, path in files)
            return f"<ul>{''.join(items)}</ul>"
        case Missing(what):
            return f'<p class="missing"><strong>not there:</strong> <code>{html.escape(what)}</code></p>'


def _html_cells(tag: str, cells: tuple[str, ...], n_text: int) -> str:
    return "".join(
        f'<{tag} class="{"text" if i < n_text else "number"}">{html.escape(cell)}</{tag}>'
        for i, cell in enumerate(cells)
    )
