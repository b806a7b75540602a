"""A page: one self-contained HTML file of sections, tables and figures that asks for nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from meguri.base.files import write_atomic
from meguri.loop import plots


def e(text: object) -> str:
    """``text`` as HTML shows it, whatever it holds."""
    return html.escape(plots.plain(str(text)))


def write_page(
    path: Path, *, language: str, kind: str, title: str, sections: Sequence[tuple[str, str, str]], footer: str
) -> None:
    """Write (id, heading, HTML) sections to ``path``, whole or not at all; the same sections give the same bytes."""
    body = "\n".join(
        f'<section id="{key}">' + (f"<h2>{e(heading)}</h2>" if heading else "") + f"\n{text}\n</section>"
        for key, heading, text in sections
    )
    css = "".join(
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("report.css", "data_report.css")
    )
    write_atomic(
        path,
        f"""<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{e(title)}</title>
<style>{css}</style>
</head>
<body>
<header><p>{e(kind)}</p><h1>{e(title)}</h1></header>
<main>
{body}
</main>
<footer>{e(footer)}</footer>
</body>
</html>
""",
    )


def table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> str:
    """A table of (heading, is a number) columns and HTML cells; each cell knows its heading, for narrow screens."""
    kinds = [' class="number"' if number else "" for _, number in columns]
    head = "".join(f'<th scope="col"{kind}>{e(name)}</th>' for (name, _), kind in zip(columns, kinds, strict=True))
    lines = "\n".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-label="{e(name)}"><span>{cell}</span></td>'
            for (name, _), kind, cell in zip(columns, kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<div><table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>"


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Boxes with a value, its name and a note."""
    boxes = "\n".join(f"<li><b>{e(value)}</b> {e(name)}<small>{e(note)}</small></li>" for value, name, note in values)
    return f'<ul class="tiles">\n{boxes}\n</ul>'
