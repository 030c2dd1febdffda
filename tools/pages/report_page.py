"""A page of HTML that holds all it needs: pictures as data, style in its head, no script, nothing fetched. Every text is escaped."""

import base64
from collections.abc import Sequence
from html import escape

# What the page may load: its own pictures and style.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NARROW_SCREEN = "(max-width: 700px)"
STYLE = """
:root { color-scheme: light; --ink: #1d2329; --soft: #5b6670; --line: #dde2e6; --tint: #f5f7f8; --blue: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .75rem; font-weight: 600; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; font-weight: 600; }
p { max-width: 46rem; margin: 0 0 .75rem; }
.under { color: var(--soft); margin: .35rem 0 1.5rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.5rem 0 0; padding: .6rem 0; border-block: 1px solid var(--line); font-size: .925rem; }
a { color: var(--blue); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
section { margin-top: 2.75rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1px; margin: 0; }
.figures { background: var(--line); border: 1px solid var(--line); }
.figures div { background: #fff; padding: .8rem 1rem; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3; }
.figures small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); min-height: 1.3em; }
.note { color: var(--soft); font-size: .9rem; }
.warn { border-left: 3px solid #e69f00; background: #fdf8ec; padding: .7rem 1rem; max-width: 46rem; margin: 0 0 1.25rem; font-size: .95rem; }
.box { overflow-x: auto; margin: 0 0 1.25rem; background:
  linear-gradient(to left, #fff 40%, #fff0) right / 48px 100% no-repeat local, linear-gradient(to left, #00000026, #0000) right / 12px 100% no-repeat scroll; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .34rem .9rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; vertical-align: baseline; }
th:first-child { text-align: left; padding-left: .25rem; position: sticky; left: 0; background: #fff; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 1px solid #9aa5ae; vertical-align: bottom; white-space: pre; }
tbody th { font-weight: 400; }
tr.strong > * { font-weight: 600; background: var(--tint); }
table.small { width: auto; }
.ci { color: var(--soft); font-weight: 400; font-size: .85em; margin-left: .5em; }
figure { margin: 1rem 0 1.25rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5rem; max-width: 46rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
@media (max-width: 700px) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures dd { font-size: 1.35rem; }
  .figures div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  table { font-size: .85rem; }
  th, td { padding: .34rem .5rem; }
  tbody th, thead th:first-child { white-space: normal; min-width: 8.75rem; line-height: 1.3; }
  .ci { display: block; margin: 0; }
}
@media print { section { break-inside: avoid; } nav { display: none; } .box { overflow: visible; } }
"""

Cell = (
    str | int | float | None | tuple[float | None, Sequence[float] | None]
)  # a pair: a value and its interval


def page(title: str, under: str, top: str, sections: dict[str, str], foot: str) -> str:
    """The whole document. title, under and foot are texts; top is HTML; sections: {heading: HTML}."""
    anchors = {heading: heading.split()[0].lower() for heading in sections}
    links = "".join(
        f'<a href="#{anchor}">{escape(heading)}</a>' for heading, anchor in anchors.items()
    )
    body = "\n".join(
        f'<section id="{anchors[heading]}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'
        for heading, content in sections.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="under">{escape(under)}</p>
{top}
<nav aria-label="Contents">{links}</nav>
{body}
<footer>{escape(foot)}</footer>
</main>
</body>
</html>
"""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; kind "note" is smaller, "warn" is set apart."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def figures(facts: Sequence[tuple[str, Cell]]) -> str:
    """A row of large numbers: (name, value), with their intervals below."""
    return f'<dl class="figures">{"".join(_fact(name, value) for name, value in facts)}</dl>'


def _fact(name: str, value: Cell) -> str:
    value, ends = value if isinstance(value, tuple) else (value, None)
    small = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
    return f"<div><dt>{escape(name)}</dt><dd>{_text(value)}<small>{small}</small></dd></div>"


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], strong: int = 0) -> str:
    """A table that scrolls in its own box. The first cell of a row is its name; the last `strong` rows stand out. A line break in head is kept."""
    first_strong = len(rows) - strong
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(_row(row, place >= first_strong) for place, row in enumerate(rows))
    box = f'<div class="box" role="region" aria-label="Table: {escape(head[0])}" tabindex="0">'
    small = " class=small" if len(head) < 4 else ""
    return f"{box}<table{small}>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"


def _row(row: Sequence[Cell], strong: bool) -> str:
    cells = "".join(f"<td>{_cell(value)}</td>" for value in row[1:])
    return (
        f'<tr{" class=strong" if strong else ""}><th scope="row">{_text(row[0])}</th>{cells}</tr>'
    )


def _cell(value: Cell) -> str:
    if not isinstance(value, tuple):
        return _text(value)
    value, ends = value
    return _text(value) + (f'<span class="ci">{ends[0]:.3f}–{ends[1]:.3f}</span>' if ends else "")


def _text(value: str | float | None) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def picture(wide: bytes, narrow: bytes, shows: str, caption: str) -> str:
    """A PNG in two shapes, of which the browser takes the one that fits the screen. shows: what it is, for those who cannot see it."""
    sources = [
        f"data:image/png;base64,{base64.b64encode(file).decode()}" for file in (wide, narrow)
    ]
    image = f'<picture><source media="{NARROW_SCREEN}" srcset="{sources[1]}"><img src="{sources[0]}" alt="{escape(shows)}"></picture>'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
