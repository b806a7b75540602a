"""Lineage as it is shown: a tree of lines, and a picture for a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from meguri.loop.lineage import Node
from meguri.loop.page import e, write_page
from meguri.loop.words import Words

_WIDE, _STEP, _LINE = 360, 16, 14  # the picture, the shift of what something leads to, and a line, in pixels
_LETTER = 5.8  # pixels, of a letter of 11 pixels' height
_MOST_LINES = 4
_COLOURS = {  # CSS variables of the page, which dark mode changes
    "prediction": "blue",
    "predictions": "blue",
    "key": "blue",
    "release": "green",
    "run": "orange",
    "commit": "pink",
    "data": "pink",
    "quarantine": "red",
}


def draw(node: Node) -> str:
    """The node and all it leads to as a tree of lines, in English."""
    return "\n".join(_lines(node, Words("en")))


def lineage_svg(node: Node, *, title: str, words: Words) -> str:
    """The tree as a picture: an SVG element, 360 wide, whose text is text, in the colours of the page around it.

    ``title`` is what a screen reader says.
    """
    boxes: list[str] = []
    end = _box(node, 0, 4, boxes, words)
    head = f'<svg class="lineage" role="img" viewBox="0 0 {_WIDE} {end + 2}"'
    style = f"width:100%;max-width:{_WIDE * 2 - 160}px;height:auto;font-family:system-ui,sans-serif;font-size:11px"
    return "\n".join([f'{head} style="{style}">', f"<title>{e(title)}</title>", *boxes, "</svg>"])


def write_lineage(path: Path, node: Node, *, created: datetime, words: Words) -> None:
    """Write the picture to ``path`` as one HTML file that asks for nothing else."""
    title = words("t_lineage", name=_name(node, words))
    picture = f"<figure>{lineage_svg(node, title=title, words=words)}</figure>"
    made = words("created", at=f"{created.astimezone(UTC):%Y-%m-%d %H:%M}")
    kind = words("kind_lineage")
    write_page(path, language=words.language, kind=kind, title=title, sections=[("lineage", "", picture)], footer=made)


def _lines(node: Node, words: Words) -> Iterable[str]:
    said = tell(node, words)
    yield f"{words.name('lin', node.kind)} {_name(node, words)}" + (f"  {said}" if said else "")
    for place, lead in enumerate(node.leads):
        last = place == len(node.leads) - 1
        first, *rest = _lines(lead, words)
        yield f"{'└─' if last else '├─'} {first}"
        yield from (f"{'   ' if last else '│  '}{line}" for line in rest)


def _name(node: Node, words: Words) -> str:
    if node.kind == "quarantine" and "rows" in node.facts:
        return words("n_rows", n=node.facts["rows"])
    return node.name[:12] if node.kind in ("data", "commit") else node.name


def tell(node: Node, words: Words) -> str:
    """What is most worth knowing of a node, in a few words."""
    f = node.facts
    if node.kind == "prediction":
        answer = words("lin_answered", score=_number(f["score"]))
        answer += f" ({f['answer']})" if f["answer"] is not None else ""
        truth = words("lin_unlabelled") if f["label"] is None else words("lin_really", label=_number(f["label"]))
        told = [words("lin_of", row=f["key"], time=f"{f['time']:%Y-%m-%d %H:%M}"), answer, truth]
    elif node.kind == "release":
        until = str(f.get("trained_until") or "")[:10]
        told = [words("lin_live") if f["live"] else "", words("lin_until", day=until) if until else ""]
        told.append(words.name("lin", f.get("note", "")))
    elif node.kind == "run":
        told = [words.name("lin", f["note"])] if "note" in f else _of_run(f, words)
    elif node.kind == "quarantine":
        told = [f"{count:,} {words.told('quarantine', what)}" for what, count in list(f["reasons"].items())[:3]]
        told += [words(f"lin_{what}", n=count) for what, count in f["decisions"].items()]
    elif node.kind == "predictions":
        ends = {name: f"{f[name]:%Y-%m-%d}" for name in ("since", "until") if name in f}
        told = [*([words("lin_span", **ends)] if ends else []), *f.get("ids", [])]
    elif node.kind == "commit":
        told = [words("lin_dirty") if f.get("dirty") else ""]
    else:
        names = {"rows": "n_rows", "predictions": "lin_n_predictions"}
        told = [words(names[what], n=count) for what, count in f.items() if count is not None]
    return words("s_join").join(text for text in told if text)


def _of_run(facts: Mapping[str, Any], words: Words) -> list[str]:
    verdict = words("lin_no_verdict")
    if facts.get("verdict"):
        why = words.told("verdict", str(facts["why"]))
        why = why.partition(", ")[0] if words.language == "en" else why.partition("。")[0]
        verdict = f"{words.name('verdict', facts['verdict']) if words.language != 'en' else facts['verdict']}: {why}"
    return [words.told("reason", str(facts["reason"])), words.name("lin", str(facts["status"])), verdict]


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _box(node: Node, depth: int, top: float, boxes: list[str], words: Words) -> float:
    """Draw a node and, below and to the right, what it leads to; where the next one may begin."""
    left = 2 + depth * _STEP
    wide = _WIDE - left - 2
    lines = _wrapped(tell(node, words), (wide - 20) / _LETTER)
    high = 10 + _LINE * (1 + len(lines))
    colour = _COLOURS[node.kind]
    boxes.append(
        f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" rx="4" fill="none" stroke="var(--rule)"/>'
        f'<rect x="{left}" y="{top}" width="4" height="{high}" rx="2" fill="var(--{colour})"/>'
    )
    boxes.append(
        f'<text x="{left + 12}" y="{top + 16}" fill="var(--ink)"><tspan font-weight="600">'
        f"{words.name('lin', node.kind)}</tspan> {e(_name(node, words))}</text>"
    )
    for place, line in enumerate(lines, 1):
        y = top + 16 + place * _LINE
        boxes.append(f'<text x="{left + 12}" y="{y}" fill="var(--soft)">{e(line)}</text>')
    below = top + high
    joint = left + _STEP / 2
    for lead in node.leads:
        start = below + 6
        boxes.append(f'<path d="M{joint} {top + high}V{start + 13}H{left + _STEP}" fill="none" stroke="var(--rule)"/>')
        below = _box(lead, depth + 1, start, boxes, words)
    return below


def _wrapped(text: str, room: float) -> list[str]:
    """The text in lines of so many letters, a wide letter counting twice; what is too long ends with an ellipsis."""
    lines, width = [""], 0
    for letter in text:
        size = 2 if east_asian_width(letter) in "WF" else 1
        if width + size > room:  # the line breaks at its last space, or in a word that is longer than a line
            head, space, tail = lines[-1].rpartition(" ")
            lines[-1:] = [head, tail] if space else [lines[-1], ""]
            width = sum(2 if east_asian_width(c) in "WF" else 1 for c in lines[-1])
        lines[-1] += letter
        width += size
    lines = [line.strip() for line in lines if line.strip()]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1] + " …"]
