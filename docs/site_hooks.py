"""Pages of the site that are not in this folder: the reference of every name, and files of the project.

MkDocs calls the functions named `on_...`; see `mkdocs.yml`.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from spacelang.doors import exports, public_packages
from spacelang.plugins import LEAVES

ROOT = Path(__file__).parent.parent
LISTED = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")  # in the navigation
_INTRODUCTION = "{members: false, show_root_heading: false, show_root_toc_entry: false}"
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)#\s]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def on_startup(**_: Any) -> None:
    """Lay out the source as it is installed, before mkdocstrings looks for the folder it reads."""
    home = ROOT / "build" / "reference" / "spacelang"
    shutil.rmtree(home, ignore_errors=True)
    python_only = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.csv", "*.yaml")
    shutil.copytree(ROOT / "spacelang", home, ignore=python_only)
    for leaf in LEAVES:
        shutil.copytree(ROOT / leaf, home / leaf, ignore=python_only)


def on_files(files: Files, config: Any) -> Files:
    """Add a page of the reference for each package, and one for each file of the project that is linked."""
    for package in public_packages():
        files.append(File.generated(config, f"reference/{package}.md", content=_reference(package)))
    pages = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    waiting = [*(ROOT / name for name in LISTED), *pages]
    done: set[Path] = set()
    while waiting:
        page = waiting.pop()
        if page in done or not page.is_file():
            continue
        done.add(page)
        if page.suffix == ".md":
            waiting += [(page.parent / target).resolve() for _, target, _ in LINK.findall(_prose(page))]
    for page in sorted(done):
        if not page.is_relative_to(ROOT / "docs") and page.suffix in (".md", ".py"):
            files.append(File.generated(config, _place(page), content=_copied(page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files outside of this folder lead to their pages of the site."""
    here = ROOT / "docs" / page.file.src_uri
    if page.file.generated_by and not page.file.src_uri.startswith("reference/"):
        return markdown
    return _relinked(markdown, here)


def _prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def _place(path: Path) -> str:
    """Return where a file of the project is in the site."""
    name = path.relative_to(ROOT).as_posix().removeprefix("docs/")
    if path.is_relative_to(ROOT / "docs"):
        return name
    return "project/" + (name if name.endswith(".md") else f"{name}.md")


def _copied(path: Path) -> str:
    """Return the page of a file of the project."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return _relinked(text, path)
    return f"# {path.name}\n\n```python\n{text}```\n"


def _relinked(markdown: str, source: Path) -> str:
    """Return a page whose links lead to pages of the site.

    Args:
        markdown: Text of the page.
        source: Where it lies in the project; links are relative to it.
    """
    here = posixpath.dirname(_place(source))

    def changed(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if not target.is_file() or target.suffix not in (".md", ".py"):
            return match[0]
        return match[1] + posixpath.relpath(_place(target), here or ".") + match[3]

    return LINK.sub(changed, markdown)


def _reference(package: str) -> str:
    """Return the page of a package: every public name with its docstring.

    The package `spacelang` itself has names of other packages alone; its page leads to them.
    """
    homes = {name: home for name, home in sorted(exports(package).items()) if home.startswith("spacelang.")}
    head = f"# {package}\n\n::: {package}\n    options: {_INTRODUCTION}\n\n"
    if "." not in package:
        others = [(name, home) for name, home in homes.items() if exports(home)]
        return head + "\n".join(f"- [`{name}`][{home}.{name}], of `{home}`" for name, home in others)
    return head + "\n\n".join(f"::: {package}.{name}" for name, home in homes.items() if home != package)
