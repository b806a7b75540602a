"""New projects and their updates: rendered from Meguri's own template, or a team's by Copier or Cookiecutter."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import meguri
from meguri.base.errors import MeguriError, ProjectError
from meguri.base.extras import need
from meguri.base.redact import redact
from meguri.loop.merge import BASELINE, Update, files_of, git, listed, merge, need_clean, pack, write

KEPT = (
    "METADATA",
    "WHEEL",
    "entry_points.txt",
)  # what a wheel says of itself; the rest of a dist-info is the installer's
ANSWERS = ".copier-answers.yml"


def new(
    target: Path, answers: Mapping[str, Any], template: str | None = None, *, ask: bool = False, trust: bool = False
) -> Path:
    """Make a project in ``target``, a folder that is not there or empty, and return its path; nothing half-made stays.

    ``template`` is the path or git URL of another template, Copier's or Cookiecutter's; ``ask`` asks the terminal for answers
    that are not given, ``trust`` lets such a template run its own commands. Raises ProjectError.
    """
    target = target.resolve()
    if target == Path.cwd() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ProjectError(
            "the folder for the new project is already there", where=target, fix="name a folder that is not there yet"
        )
    facts, wheel = _installed()
    given = {**facts, **answers}
    with _box(target) as draft:
        if template is None:
            _render(str(_own_template()), draft, given, ask=ask, trust=False)
            write(draft, BASELINE, pack(files_of(draft)))
        else:
            _render_other(template, draft, given, ask=ask, trust=trust)
        for path, data in _vendored(draft, draft, facts["meguri_wheel"], wheel).items():
            write(draft, path, data)
        if target.is_dir():
            target.rmdir()
        draft.rename(target)
    if template is None and shutil.which("git") and git(target, "rev-parse", "--git-dir", check=False).returncode:
        git(target, "init", "--quiet")
    return target


def lock(project: Path) -> None:
    """Lock the packages by the project's own ``make lock``.

    Raises ProjectError when that fails, such as without a network; the project is whole without it.
    """
    # a make around this one must not lend its flags
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    try:
        done = subprocess.run(
            ["make", "lock"], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        said, failed = done.stderr + done.stdout, done.returncode != 0
    except OSError as error:
        said, failed = str(error), True
    if failed:
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith("make")]
        why = redact(" | ".join(lines[-4:]))
        raise ProjectError(
            f"the project is made, but its packages could not be locked: {why}",
            where=project,
            fix="when the package index can be reached: make lock",
        )


def update(project: Path, *, trust: bool = False) -> Update:
    """Bring a project up to the newest form of its template by a three-way merge; what its people changed stays.

    The project must be in a git repository with nothing uncommitted. The result is staged and not committed; a file in
    conflict has git's marks in it and counts as unmerged. ``git reset --merge`` takes all of it back. Raises ProjectError.
    """
    import yaml

    root = project.resolve()
    if not (root / ANSWERS).is_file():
        fix = f"go into a project made by `meguri new`: it has a {ANSWERS} (one from a Cookiecutter template has none, and is not updated)"
        raise ProjectError("the project does not know its template", where=root / ANSWERS, fix=fix)
    try:
        kept = yaml.safe_load((root / ANSWERS).read_text(encoding="utf-8"))
        source = kept["_src_path"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ProjectError(
            "the project's answers cannot be read", where=root / ANSWERS, fix=f"restore it: git checkout {ANSWERS}"
        ) from error
    need_clean(root)
    if source != "meguri":
        return _update_other(root, trust=trust)
    facts, wheel = _installed()
    own = {name: value for name, value in kept.items() if not name.startswith("_")}
    with tempfile.TemporaryDirectory() as folder:
        rendered = Path(folder) / root.name
        _render(str(_own_template()), rendered, {**facts, **own}, ask=False, trust=False)
        return merge(root, files_of(rendered), _vendored(root, rendered, facts["meguri_wheel"], wheel))


# Where Meguri itself comes from


def _own_template() -> Path:
    """The template: beside the package in a source tree, inside it once installed."""
    package = Path(meguri.__file__).parent
    inside = package / "_template"
    return inside if inside.is_dir() else package.parents[1] / "template"


def _installed() -> tuple[dict[str, str], bytes]:
    """What a project must know of this Meguri to depend on it, and the wheel for its ``vendor`` folder (none: by git).

    By git from a server it is the URL and commit. Anything else, a wheel, a path, an editable path, may be gone tomorrow, and
    is in no container: the wheel is made again of the installed files.
    """
    try:
        distribution = metadata.distribution("meguri")
    except metadata.PackageNotFoundError as error:
        raise ProjectError(
            "this Meguri is not installed, so a project cannot depend on it",
            fix="pip install PATH, with the path of its source",
        ) from error
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    facts = {"python": python, "meguri_version": distribution.version, "meguri_wheel": "", "meguri_git": ""}
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "vcs_info" in origin and not origin["url"].startswith("file:"):
        return {**facts, "meguri_git": f"{origin['url']}@{origin['vcs_info']['commit_id']}"}, b""
    files = {f"meguri/{path}": data for path, data in files_of(Path(meguri.__file__).parent).items()}
    files |= {f"meguri/_template/{path}": data for path, data in files_of(_own_template()).items()}
    for part in distribution.files or []:
        if part.parts[0].endswith(".dist-info") and (part.name in KEPT or "licenses" in part.parts):
            files[str(part)] = part.read_binary()
    record = ""
    for path, data in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    # the build tag says what is inside, so that no tool takes another build of the same version for this one
    build = "0" + hashlib.sha256(record.encode()).hexdigest()[:8]
    home = f"meguri-{distribution.version}.dist-info"
    facts["meguri_wheel"] = f"meguri-{distribution.version}-{build}-py3-none-any.whl"
    return facts, pack(files | {f"{home}/RECORD": f"{record}{home}/RECORD,,\n".encode()})


def _vendored(root: Path, asking: Path, name: str, wheel: bytes) -> dict[str, bytes | None]:
    """The wheel as a file of ``vendor``, in the place of older ones, if the project in ``asking`` names it."""
    files = [asking / "pyproject.toml", asking / "Pipfile"]
    asked = any(name in file.read_text(encoding="utf-8") for file in files if file.is_file())
    if not name or not asked or (root / "vendor" / name).is_file():
        return {}
    old: dict[str, bytes | None] = {f"vendor/{found.name}": None for found in (root / "vendor").glob("meguri-*.whl")}
    return {**old, f"vendor/{name}": wheel}


# Rendering


@contextmanager
def _box(target: Path) -> Iterator[Path]:
    """A folder of the target's name on the same disk, which goes away unless it is moved."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder) / target.name


def _render(template: str, target: Path, answers: Mapping[str, Any], *, ask: bool, trust: bool) -> None:
    copier = need("copier")
    with _told(template), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Copier's, on versions and caches: nothing that a person can act on here
        copier.run_copy(template, target, data=dict(answers), defaults=not ask, quiet=True, unsafe=trust)


def _render_other(template: str, target: Path, answers: Mapping[str, Any], *, ask: bool, trust: bool) -> None:
    """Render a team's template: Cookiecutter's if it has a cookiecutter.json, else Copier's."""
    if Path(template).is_dir():
        template = str(Path(template).resolve())
    with tempfile.TemporaryDirectory() as folder:
        source = Path(template)
        if not source.is_dir():
            source = Path(folder) / "template"
            subprocess.run(
                ["git", "clone", "--quiet", "--depth", "1", template.removeprefix("git+"), source],
                capture_output=True,
                check=False,
            )
        if not (source / "cookiecutter.json").is_file():
            _render(template, target, answers, ask=ask, trust=trust)
            return
        if (source / "hooks").is_dir() and not trust:
            raise ProjectError(
                "the template runs commands of its own (hooks)", where=template, fix="read them, then add --trust"
            )
        cookiecutter = need("cookiecutter.main").cookiecutter
        context = (
            {"project_name": answers["name"], "project_slug": answers["name"].replace("-", "_"), **answers}
            if "name" in answers
            else answers
        )
        with _told(template), _no_replay(Path(folder)) as settings:
            made = cookiecutter(
                str(source),
                no_input=not ask,
                extra_context=dict(context),
                output_dir=str(Path(folder) / "out"),
                config_file=settings,
            )
        shutil.move(made, target)


@contextmanager
def _no_replay(folder: Path) -> Iterator[str]:
    """Settings that keep Cookiecutter from writing into the home folder."""
    path = folder / "settings.yml"
    path.write_text(
        json.dumps({"cookiecutters_dir": str(folder / "clones"), "replay_dir": str(folder / "replay")}),
        encoding="utf-8",
    )
    yield str(path)


@contextmanager
def _told(template: str) -> Iterator[None]:
    """Tell what a template library raises as one of ours."""
    try:
        yield
    except MeguriError:
        raise
    except Exception as error:  # Jinja, git, YAML, the library's own: all of them are about the template
        kind = type(error).__name__
        if kind == "UnsafeTemplateError":
            raise ProjectError(
                "the template runs commands of its own",
                where=redact(template),
                fix="read them in its copier.yml, then add --trust",
            ) from error
        text = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise ProjectError(
            f"the template cannot be used: {redact(text[-1]) if text else kind}",
            where=redact(template),
            fix="check its path or URL, and the answers",
        ) from error


# Updating by Copier


def _update_other(root: Path, *, trust: bool) -> Update:
    """Copier's own update, for a team's template with versions in git; staged like ours."""
    copier = need("copier")
    facts, wheel = _installed()
    with _told(str(root / ANSWERS)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copier.run_update(root, data=facts, defaults=True, overwrite=True, quiet=True, unsafe=trust)
    for path, data in _vendored(root, root, facts["meguri_wheel"], wheel).items():
        write(root, path, data)
    conflicts = listed(root, "diff", "--name-only", "--diff-filter=U", "--relative")
    fresh = [
        path
        for path in listed(root, "ls-files", "--modified", "--others", "--deleted", "--exclude-standard")
        if path not in conflicts
    ]
    if fresh:
        git(root, "add", "--all", "--", *fresh)
    changed = listed(root, "diff", "--cached", "--name-only", "--relative")
    return Update(tuple(sorted({*changed, *conflicts})), tuple(conflicts))
