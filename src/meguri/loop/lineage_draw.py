"""Lineage as it is shown: a tree of lines, and a picture for a page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from unicodedata import east_asian_width

from meguri.loop.lineage import Node

_WIDE, _STEP, _LINE = 360, 16, 14  # the picture, the shift of what something leads to, and a line, in pixels
_LETTER = 5.8  # pixels, of a letter of 11 pixels' height
_MOST_LINES = 4
_COLOURS = {  # those of the report; each a CSS variable of the page, which dark mode changes
    "prediction": ("blue", "#0072b2"),
    "predictions": ("blue", "#0072b2"),
    "key": ("blue", "#0072b2"),
    "release": ("green", "#009e73"),
    "run": ("orange", "#e69f00"),
    "commit": ("pink", "#cc79a7"),
    "data": ("pink", "#cc79a7"),
    "quarantine": ("red", "#d55e00"),
}


def draw(node: Node) -> str:
    """The node and all it leads to as a tree of lines."""
    return "\n".join(_lines(node))


def lineage_svg(node: Node, *, title: str) -> str:
    """The tree as a picture: an SVG element, 360 wide, whose text is text, in the colours of the page around it.

    ``title`` is what a screen reader says.
    """
    boxes: list[str] = []
    end = _box(node, 0, 4, boxes)
    head = f'<svg class="lineage" role="img" viewBox="0 0 {_WIDE} {end + 2}" xmlns="http://www.w3.org/2000/svg"'
    style = f"width:100%;max-width:{_WIDE * 2 - 160}px;height:auto;font-family:system-ui,sans-serif;font-size:11px"
    return "\n".join([f'{head} style="{style}">', f"<title>{escape(title)}</title>", *boxes, "</svg>"])


def _lines(node: Node) -> Iterable[str]:
    said = tell(node)
    yield f"{node.kind} {_name(node)}" + (f"  {said}" if said else "")
    for place, lead in enumerate(node.leads):
        last = place == len(node.leads) - 1
        first, *rest = _lines(lead)
        yield f"{'└─' if last else '├─'} {first}"
        yield from (f"{'   ' if last else '│  '}{line}" for line in rest)


def _name(node: Node) -> str:
    return node.name[:12] if node.kind in ("data", "commit") else node.name


def tell(node: Node) -> str:
    """What is most worth knowing of a node, in a few words."""
    f = node.facts
    if node.kind == "prediction":
        answer = f"answered {_number(f['score'])}" + (f" ({f['answer']})" if f["answer"] is not None else "")
        truth = "no label yet" if f["label"] is None else f"really {_number(f['label'])}"
        told = [f"of {f['key']} at {f['time']:%Y-%m-%d %H:%M}", answer, truth]
    elif node.kind == "release":
        until = str(f.get("trained_until") or "")[:10]
        told = ["live" if f["live"] else "", f"trained until {until}" if until else "", f.get("note", "")]
    elif node.kind == "run":
        verdict = f"{f['verdict']}: {str(f['why']).partition(',')[0]}" if f.get("verdict") else "no verdict"
        told = [f["note"]] if "note" in f else [f"{f['reason']}", f"{f['status']}", verdict]
    elif node.kind == "quarantine":
        told = [f"{count:,} {what}" for what, count in [*list(f["reasons"].items())[:3], *f["decisions"].items()]]
    elif node.kind == "predictions":
        told = [f"{f['since']:%Y-%m-%d} to {f['until']:%Y-%m-%d}"] if f["count"] else []
        told += f.get("ids", [])
    elif node.kind == "commit":
        told = ["and changes that were not committed" if f.get("dirty") else ""]
    else:
        told = [f"{count:,} {what}" for what, count in f.items() if count is not None]
    return ", ".join(text for text in told if text)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _box(node: Node, depth: int, top: float, boxes: list[str]) -> float:
    """Draw a node and, below and to the right, what it leads to; where the next one may begin."""
    left = 2 + depth * _STEP
    wide = _WIDE - left - 2
    lines = _wrapped(tell(node), (wide - 20) / _LETTER)
    high = 10 + _LINE * (1 + len(lines))
    name, value = _COLOURS[node.kind]
    boxes.append(
        f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" rx="4" fill="none" stroke="var(--rule, #d7d7db)"/>'
        f'<rect x="{left}" y="{top}" width="4" height="{high}" rx="2" fill="var(--{name}, {value})"/>'
    )
    boxes.append(
        f'<text x="{left + 12}" y="{top + 16}" fill="var(--ink, #1b1b1d)"><tspan font-weight="600">{node.kind}</tspan> '
        f"{escape(_name(node))}</text>"
    )
    for place, line in enumerate(lines, 1):
        y = top + 16 + place * _LINE
        boxes.append(f'<text x="{left + 12}" y="{y}" fill="var(--soft, #6b6b6f)">{escape(line)}</text>')
    below = top + high
    joint = left + _STEP / 2
    for lead in node.leads:
        start = below + 6
        boxes.append(
            f'<path d="M{joint} {top + high}V{start + 13}H{left + _STEP}" fill="none" stroke="var(--rule, #d7d7db)"/>'
        )
        below = _box(lead, depth + 1, start, boxes)
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
