"""The docs are true: their commands parse, the guide's blocks run, every command and option is told, links lead somewhere.

In the guide and in data.md ``console`` and ``python run`` blocks are run in their order in the small project of conftest.py, each
page in one of its own; ``console error`` must end with 1, ``python file`` is written to the file that its first line names, and each
line of ``text output`` is in what the last command printed, ``…`` being anything. Other blocks are only shown.
``python tests/test_docs.py`` writes the tables of docs/cli.md anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from meguri.cli import app
from meguri.loop.settings import Settings
from meguri.loop.trigger import TRIGGERS, parse

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDES = [ROOT / "docs" / "guide.md", ROOT / "docs" / "ja" / "guide.md"]
RUN = [ROOT / "docs" / "guide.md", ROOT / "docs" / "data.md"]
CLI_PAGE = ROOT / "docs" / "cli.md"
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is, its text, and its line in the page."""

    kind: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [Block(m[1].strip(), m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


def prose(path: Path) -> str:
    return BLOCK.sub("", path.read_text(encoding="utf-8"))


# ---- commands


def commands() -> dict[str, Any]:
    """Every command of the command line by its words: ``releases list``."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "list_commands"):
            yield " ".join(words), command
            return
        if command.invoke_without_command and words:
            yield " ".join(words), command
        context = typer.Context(command)
        for word in command.list_commands(context):
            yield from walk(command.get_command(context, word), (*words, word))

    return dict(walk(typer.main.get_command(app), ()))


COMMANDS = commands()


def split(line: str) -> list[list[str]]:
    """The words of each meguri command in a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = []
    inside = False
    for word in lexer:
        if re.fullmatch(r"[&|;<>]+", word):
            inside = False
        elif inside:
            found[-1].append(word)
        elif word == "meguri" or word.endswith("/meguri"):
            found.append([])
            inside = True
    return found


def judge(words: list[str], *, whole: bool) -> None:
    """Fail unless the command exists and takes these words; a mere mention need not be ``whole``."""
    if words[:1] in (["--help"], ["COMMAND"], []):
        return
    at = next((n for n in (2, 1) if " ".join(words[:n]) in COMMANDS), 0)
    if not at:
        group = {command.partition(" ")[0] for command in COMMANDS if " " in command}
        assert not whole, f"there is no such command: meguri {' '.join(words)}"
        assert words == words[:1], words
        assert words[0] in group, words
        return
    command, rest = COMMANDS[" ".join(words[:at])], words[at:]
    if whole:
        command.make_context("meguri", list(rest))
        return
    known = {"--help"} | {option for one in command.params for option in one.opts if option.startswith("-")}
    assert {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)} <= known


def lines(block: Block) -> list[str]:
    """The shell lines of a block, without the prompt; lines that end with a backslash joined."""
    text = re.sub(r"^\$ ", "", block.text, flags=re.MULTILINE).replace("\\\n", " ")
    return [line for line in text.splitlines() if "meguri " in line]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_command_line_parses(path: Path) -> None:
    for block in blocks(path):
        if block.kind in ("console", "console error", "sh", "text", "bash"):
            for line in lines(block):
                for words in split(line):
                    judge(words, whole=True)
    for span in re.findall(r"`(meguri [^`]*)`", prose(path)):
        for words in split(span.replace("…", "")):
            judge(words, whole=False)


@pytest.mark.parametrize(
    "wrong", ["meguri trun", "meguri tick --nwo 1", "meguri replay --from 2024-01-01", "meguri releases shw"]
)
def test_a_wrong_command_line_is_found(wrong: str) -> None:
    with pytest.raises(Exception, match=r"."):
        judge(split(wrong)[0], whole=True)


# ---- docs/cli.md


def section(command: Any) -> str:
    """The table of a command's arguments and options, as docs/cli.md holds it."""
    rows = []
    for one in command.params:
        if one.param_type_name == "argument":
            shown, default = f"`{one.metavar or one.name.upper()}`", "needed" if one.required else ""
            shown = re.sub(r"^`\[(.*)\]…`$", r"`\1` …", shown)
        else:
            value = "" if one.is_flag else f" {one.metavar or one.name.upper()}"
            shown = ", ".join(f"`{option}{value}`" for option in one.opts)
            default = "needed" if one.required else "" if one.default in (None, False, 0) else f"`{one.default}`"
        again = " May be given again." if getattr(one, "multiple", False) and "again" not in one.help else ""
        rows.append(f"| {shown} | {one.help}{again} | {default} |")
    return "\n".join(["| | | default |", "| --- | --- | --- |", *rows])


def written(page: str) -> str:
    """The page with the table of every command as the command line has it; KeyError for a command without a section."""
    parts = re.split(r"^(## `meguri .*`)$", page, flags=re.MULTILINE)
    told = {parts[i].removeprefix("## `meguri ").removesuffix("`"): i for i in range(1, len(parts), 2)}
    assert list(told) == list(COMMANDS), "docs/cli.md has a section for each command, in the order of meguri --help"
    for command, place in told.items():
        table = f"{section(COMMANDS[command])}\n"
        parts[place + 1], found = re.subn(
            r"(^\|.*\n)+", lambda _, new=table: new, parts[place + 1], count=1, flags=re.MULTILINE
        )
        assert found, f"the section of {command} has no table; begin one with a line of '|'"
    return "".join(parts)


def test_every_command_and_option_is_documented() -> None:
    page = CLI_PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "write the tables anew: python tests/test_docs.py"


# ---- links and languages


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target} in {name(path)}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(there), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{target} in {name(path)}"


def outline(path: Path) -> list[str | Block]:
    """The level of each heading, and each block, in their order."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(rf"{BLOCK.pattern}|^(#+) ", text, flags=re.MULTILINE | re.DOTALL)
    return [m[3] or Block(m[1].strip(), m[2], 0) for m in found]


@pytest.mark.parametrize("path", [*RUN, ROOT / "docs" / "deploy.md"], ids=name)
def test_both_languages_have_the_same_sections_and_blocks(path: Path) -> None:
    assert outline(path) == outline(path.parent / "ja" / path.name)


def test_both_readmes_have_the_same_sections_and_commands() -> None:
    def shape(path: Path) -> list[str]:
        return ["block" if isinstance(part, Block) else part for part in outline(path)]

    assert shape(ROOT / "README.md") == shape(ROOT / "README.ja.md")


# ---- what a reader looks up


def keys(section: type[BaseModel], before: str = "") -> Iterator[str]:
    for key, field in section.model_fields.items():
        kinds = [k for k in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(k, type)]
        inner = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
        yield from keys(inner, f"{before}{key}.") if inner else [before + key]


@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_the_guide_names_every_setting_extra_and_trigger(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert [key for key in keys(Settings) if f"`{key}`" not in text] == []
    assert [extra for extra in extras if f"| `{extra}` |" not in text] == []
    told = re.findall(rf"(?:`|triggers: )((?:{'|'.join(TRIGGERS)})\([^`\n]*)", text)
    assert {type(parse(trigger)).__name__ for trigger in told} >= set(TRIGGERS)


@pytest.mark.parametrize("path", GUIDES, ids=name)
def test_the_guide_looks_with_the_mlflow_of_the_lock(path: Path) -> None:
    told = re.findall(r"\bmlflow==([\d.]+)", path.read_text(encoding="utf-8"))
    locked = re.findall(
        r"^mlflow-skinny==([\d.]+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(told) == set(locked)


# ---- the guide is run


@pytest.mark.parametrize("path", RUN, ids=name)
def test_the_page_runs(path: Path, project_root: Path) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = ""
    for block in blocks(path):
        if block.kind.startswith("console"):
            assert all(line.startswith("$ ") for line in block.text.splitlines()), block
            command = ["bash", "-euo", "pipefail", "-c", block.text.replace("$ ", "").strip()]
        elif block.kind == "python run":
            command = [sys.executable, "-c", block.text]
        elif block.kind == "python file":
            file = project_root / block.text.partition("\n")[0].removeprefix("# ")
            assert file.parent.is_dir(), block
            file.write_text(block.text, encoding="utf-8")
            continue
        elif block.kind == "text output":
            for line in block.text.splitlines():
                anything = ".*".join(map(re.escape, line.split("…")))
                assert re.search(rf"^{anything}", printed, re.MULTILINE), (
                    f"{name(path)}:{block.line}\n{line}\n{printed}"
                )
            continue
        else:
            assert block.kind in ("mermaid", "sh", "text", "yaml", "python"), block
            continue
        done = subprocess.run(command, cwd=project_root, env=env, capture_output=True, text=True, check=False)
        printed = done.stdout + done.stderr
        wanted = int(block.kind == "console error")
        assert done.returncode == wanted, f"{name(path)}:{block.line}\n{block.text}\n{printed}"


if __name__ == "__main__":
    CLI_PAGE.write_text(written(CLI_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
