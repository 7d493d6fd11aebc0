"""The page: style sheet, tables, numbered captions. Everything that is text is escaped here."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

from fibnet.report.numbers import format_value
from fibnet.report.style import Picture

__all__ = ["Page"]

_CSS = """
:root { color-scheme: light; --ink: #1f2933; --muted: #5d6975; --line: #dfe4ea; --soft: #f5f7f9;
  --accent: #1d5b8f; --warn: #8a5a00; --warn-soft: #fff7e3; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.5; font-size: 15px;
  font-family: "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 28px 60px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 44px 0 12px; padding-bottom: 5px; border-bottom: 2px solid var(--ink);
  break-after: avoid; }
p { margin: 8px 0; max-width: 76ch; }
.created { color: var(--muted); margin: 0 0 18px; }
nav { font-size: 13.5px; margin: 18px 0 0; display: flex; flex-wrap: wrap; gap: 4px 18px; }
nav a { color: var(--accent); text-decoration: none; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
.summary { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr));
  background: var(--soft); border: 1px solid var(--line); border-radius: 6px; overflow: hidden;
  margin: 20px 0 0; break-inside: avoid; }
.summary div { padding: 12px 16px 11px; box-shadow: 1px 0 0 var(--line), 0 1px 0 var(--line); }
.summary dt { font-size: 13px; color: var(--muted); }
.summary dd { margin: 0; font-size: 21px; font-weight: 600; font-variant-numeric: tabular-nums; }
.summary dd span { font-size: 14px; font-weight: 400; color: var(--muted); }
.summary dd .unit { margin-left: 5px; }
.warnings { background: var(--warn-soft); border-left: 4px solid #e0a100; padding: 10px 16px;
  margin: 20px 0 0; border-radius: 0 5px 5px 0; break-inside: avoid; }
.warnings strong { color: var(--warn); }
.warnings ul { margin: 4px 0 0; padding-left: 20px; }
figure { margin: 22px 0 26px; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption, caption { font-size: 13.5px; color: var(--muted); line-height: 1.45; max-width: 92ch; }
figcaption { margin-top: 8px; }
figcaption b, caption b { color: var(--ink); }
.wide { overflow-x: auto; margin: 20px 0 26px; break-inside: avoid; }
table { border-collapse: collapse; font-size: 14px; min-width: 330px;
  font-variant-numeric: tabular-nums;
  border-bottom: 1.5px solid var(--ink); }
caption { text-align: left; padding-bottom: 7px; }
th { font-weight: 600; text-align: left; padding: 5px 14px 5px 0; vertical-align: bottom;
  border-top: 1.5px solid var(--ink); border-bottom: 1px solid var(--ink); }
td { padding: 4px 14px 4px 0; border-top: 1px solid var(--line); vertical-align: top; }
td:first-child { white-space: nowrap; }
th.n, td.n { text-align: right; padding-left: 14px; padding-right: 4px; }
td.n { white-space: nowrap; }
th:last-child, td:last-child { padding-right: 4px; }
td.s { color: var(--muted); }
td.best { font-weight: 700; }
tr.main td { background: var(--soft); }
@page { size: A4; margin: 14mm 14mm 16mm; }
@media print {
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } nav { display: none; }
  table { font-size: 9pt; } figcaption, caption { font-size: 9pt; } .wide { overflow: visible; }
  .summary, .warnings, tr.main td { print-color-adjust: exact; }
}
"""


class Page:
    """A document that is written from top to bottom; numbers figures and tables by itself."""

    def __init__(self, title: str, created: str | None):
        self._title = title
        self._created = created
        self._head: list[str] = []
        self._body: list[str] = []
        self._sections: list[tuple[str, str]] = []
        self._figures = 0
        self._tables = 0

    def summary(self, rows: Iterable[tuple[str, object, str]]) -> None:
        """The box of key numbers under the title."""
        cells = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{_key_number(value)}{_unit(unit)}</dd></div>"
            for name, value, unit in rows
        )
        if cells:
            self._head.append(f'<dl class="summary">{cells}</dl>')

    def warnings(self, sentences: Sequence[str]) -> None:
        """A box that stands out."""
        if sentences:
            items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
            self._head.append(
                f'<div class="warnings"><strong>Please note</strong><ul>{items}</ul></div>'
            )

    def section(self, title: str) -> None:
        """A heading, also linked from the top."""
        anchor = f"s{len(self._sections) + 1}"
        self._sections.append((anchor, title))
        self._body.append(f'<h2 id="{anchor}">{escape(title)}</h2>')

    def paragraph(self, text: str) -> None:
        self._body.append(f"<p>{escape(text)}</p>")

    def figure(self, picture: Picture) -> str:
        """Places a picture and returns the file name that carries its number."""
        self._figures += 1
        data = base64.b64encode(picture.png).decode("ascii")
        alt = escape(picture.caption, quote=True)
        self._body.append(
            f'<figure><img style="width:{picture.width_percent}%" alt="{alt}" '
            f'src="data:image/png;base64,{data}">'
            f"<figcaption><b>Figure {self._figures}.</b> {escape(picture.caption)}</figcaption>"
            "</figure>"
        )
        return f"{self._figures:02d}_{picture.name}.png"

    def table(
        self,
        caption: str,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        kinds: str,
        best: frozenset[tuple[int, int]] = frozenset(),
        main_row: int | None = None,
    ) -> None:
        """A table with a numbered caption.

        Args:
            caption: plain text.
            header: one text per column.
            rows: cells; numbers are formatted, text stays.
            kinds: one letter per column: t text, n number (right-aligned), s secondary text.
            best: (row, column) of the cells to print bold.
            main_row: the row to tint.
        """
        self._tables += 1
        classes = {"t": "", "n": ' class="n"', "s": ""}
        head = "".join(
            f"<th{classes[kind]}>{escape(text)}</th>"
            for kind, text in zip(kinds, header, strict=True)
        )
        lines = []
        for r, row in enumerate(rows):
            cells = []
            for c, (kind, value) in enumerate(zip(kinds, row, strict=True)):
                names = [kind] if kind in "ns" else []
                names += ["best"] if (r, c) in best else []
                attribute = f' class="{" ".join(names)}"' if names else ""
                cells.append(f"<td{attribute}>{escape(_cell(value, kind))}</td>")
            tint = ' class="main"' if r == main_row else ""
            lines.append(f"<tr{tint}>{''.join(cells)}</tr>")
        self._body.append(
            f'<div class="wide"><table><caption><b>Table {self._tables}.</b> {escape(caption)}'
            f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )

    def html(self) -> str:
        """The finished document."""
        title = escape(self._title)
        created = f'<p class="created">{escape(self._created)}</p>' if self._created else ""
        links = "".join(f'<a href="#{anchor}">{escape(t)}</a>' for anchor, t in self._sections)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{title}</h1>{created}{''.join(self._head)}"
            f"<nav>{links}</nav></header>\n"
            + "\n".join(self._body)
            + "\n</main>\n</body>\n</html>\n"
        )


def _cell(value: object, kind: str) -> str:
    """In columns of text a number is a setting, not a measurement: no digits are added to it."""
    return f"{value:g}" if kind == "t" and isinstance(value, float) else format_value(value)


def _key_number(value: object) -> str:
    """The number large, its uncertainty smaller."""
    text = format_value(value)
    for separator in (" ± ", " ("):
        number, found, rest = text.partition(separator)
        if found and isinstance(value, tuple | list):
            return f"{escape(number)}<span>{escape(found + rest)}</span>"
    return escape(text)


def _unit(unit: str) -> str:
    return f'<span class="unit">{escape(unit)}</span>' if unit else ""
