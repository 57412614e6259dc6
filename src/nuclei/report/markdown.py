"""Blocks as Markdown: what comes from names and texts is read as text, never as markup of HTML, link or picture."""

import re

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


def render_markdown(title: str, blocks: list[Block]) -> str:
    """Return the report as Markdown that refers to figures/<name>.png."""
    return "\n\n".join([f"# {as_text(title)}", *map(render_block, blocks)]) + "\n"


def as_text(text: str) -> str:
    """Return a text in which Markdown finds no tag and no entity of HTML, no link and no picture."""
    without_html = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")
    return re.sub(r"\](?=[(:])", r"]\\", without_html)


def as_code(text: str) -> str:
    """Return a text as code within a line, which a backtick of its own does not end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}".replace("\n", " ")


def render_block(block: Block) -> str:
    """Return one block as Markdown."""
    match block:
        case Heading(text):
            return f"## {as_text(text)}"
        case Subheading(text):
            return f"### {as_text(text)}"
        case Paragraph(text):
            return as_text(text)
        case Code(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case Table(columns, rows, n_text):
            rule = [":--" if i < n_text else "--:" for i in range(len(columns))]
            lines = [" | ".join(map(_cell, row)) for row in (columns, rule, *rows)]
            return "\n".join(f"| {line} |" for line in lines)
        case Picture(name, _, caption):
            return f"![{as_text(describe(block))}](figures/{name}.png)\n\n*{as_text(caption)}*"
        case Files(files):
            return "\n".join(f"- [{path.removeprefix('../')}]({path}): {as_text(what)}" for what, path in files)
        case Missing(what):
            return f"> **missing:** {as_code(what)}"
        case FillIn(what):
            return f"> **to be filled in:** {as_text(what)}"
        case References(sources):
            return "\n".join(f"{i}. {as_text(what)} <{address}>" for i, (what, address) in enumerate(sources, start=1))
        case Browser(folder, rows):
            return f"{len(rows)} images are browsed in the HTML page; their pictures lie in {as_code(folder + '/')}."


def describe(picture: Picture) -> str:
    """Return what a picture shows, as text that stands in for it: on one line, without brackets of Markdown."""
    return re.sub(r"[\[\]\n]", " ", picture.alt or picture.caption)


def _cell(text: str) -> str:
    shown = as_text(text).replace("|", r"\|").replace("\n", " ")
    return f"[{shown}]({text.address})" if isinstance(text, Link) else shown
