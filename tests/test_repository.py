"""The rules of the repository that no tool checks: layout, imports, safety, examples in docstrings."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import networkx as nx
import pytest

import spacelang

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "spacelang": "spacelang",
    "strategies": "spacelang.strategies",
    "hub": "spacelang.hub",
    "evaluators": "spacelang.evaluators",
}
LEAVES = ("strategies", "hub", "evaluators")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg", ".sh", ""}


def sources() -> list[Path]:
    """Python files of the four source folders."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def all_python() -> list[Path]:
    """Python files of the repository, tests, examples and benchmarks included."""
    return sources() + sorted(
        path
        for folder in ("tests", "benchmarks", "examples", "docs")
        for path in (ROOT / folder).rglob("*.py")
    )


def module_name(path: Path) -> str:
    """Installed name of a source file: `hub/cells/designs.py` is `spacelang.hub.cells.designs`."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def package_of(path: Path) -> str:
    """Installed name of the package a source file is in."""
    return module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]


def parsed(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything a source file imports, inside functions too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package_of(path).split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def leaf_of(name: str) -> str | None:
    """Leaf that an installed name belongs to."""
    first, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    return part if first == "spacelang" and part in LEAVES else None


def relative(path: Path) -> str:
    """Path as it is shown in a failure."""
    return path.relative_to(ROOT).as_posix()


# -- layout


def test_every_package_is_listed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"] == {name: folder for folder, name in FOLDERS.items()}
    tree = {module_name(path) for path in sources() if path.name == "__init__.py"}
    assert set(setuptools["packages"]) == tree
    assert len(setuptools["packages"]) == len(tree), "a package is listed twice"


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in sources()}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_dependencies_have_lower_bounds_and_no_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9-]+(\[[a-z]+\])?(>=[\d.]+)?", line)] == []
    assert [line for line in project["dependencies"] if ">=" not in line] == []


# -- imports


@pytest.mark.slow
def test_the_core_imports_no_leaf() -> None:
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in sources()
        if relative(path).startswith("spacelang/")
        for line, name in imported(path)
        if leaf_of(name)
    ]
    assert wrong == []


def test_only_the_command_line_names_a_leaf_module() -> None:
    wrong = [
        f"{relative(path)}:{node.lineno} names {node.value!r}"
        for path in sources()
        if relative(path).startswith("spacelang/") and not relative(path).startswith("spacelang/cli/")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"(spacelang)?\.(strategies|hub|evaluators)(\.\w+)*", node.value)
    ]
    assert wrong == []


@pytest.mark.slow
def test_leaves_import_only_the_core_and_themselves_relatively() -> None:
    wrong = []
    for path in sources():
        own = leaf_of(module_name(path) + ".")
        if own is None:
            continue
        absolute = {
            node.lineno
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.level == 0)
        }
        for line, name in imported(path):
            other = leaf_of(name)
            if other is not None and other != own:
                wrong.append(f"{relative(path)}:{line} imports another leaf: {name}")
            elif other == own and line in absolute:
                wrong.append(f"{relative(path)}:{line} imports its own leaf absolutely: {name}")
            elif line not in absolute and not name.startswith(f"spacelang.{own}"):
                wrong.append(f"{relative(path)}:{line} leaves its leaf by a relative import: {name}")
    assert wrong == []


STAIR = (
    (
        "files",
        "errors",
        "quiet",
        "progress",
        "randomness",
        "finite",
        "doors",
        "arguments",
        "namesake",
        "plugins",
        "version",
    ),
    ("language",),
    ("nn",),
    ("graph",),
    ("supernet",),
    ("costs",),
    ("trials", "results"),
    ("space",),
    ("models",),
    ("experiment",),
    ("testing", "cli", "__main__"),
)
"""Modules and packages of the core; each imports those of its own step and of the steps before."""


def import_graph() -> nx.DiGraph:
    """Modules of the four source folders; an edge is an import, wherever in the module it stands."""
    modules = {module_name(path): path for path in sources()}
    graph = nx.DiGraph()
    graph.add_nodes_from(modules)
    for importer, path in modules.items():
        for _, name in imported(path):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != importer:
                graph.add_edge(importer, target)
    return graph


@pytest.mark.slow
def test_imports_make_no_circle() -> None:
    circles = [sorted(c) for c in nx.strongly_connected_components(import_graph()) if len(c) > 1]
    assert circles == []


@pytest.mark.slow
def test_imports_of_the_core_point_down_the_stair() -> None:
    step = {name: height for height, names in enumerate(STAIR) for name in names}
    root = "spacelang"
    wrong = [
        f"{importer} imports {target}"
        for importer, target in import_graph().edges
        if root not in (importer, target) and not leaf_of(f"{importer}.")
        if step[importer.split(".")[1]] < step[target.split(".")[1]]
    ]
    assert wrong == []


def test_modules_have_plain_and_different_names() -> None:
    paths = [path for path in sources() if path.name not in ("__init__.py", "__main__.py")]
    assert [relative(path) for path in paths if path.name.startswith("_")] == []
    homes: dict[str, list[str]] = {}
    for path in paths:
        homes.setdefault(path.stem, []).append(path.relative_to(ROOT).parts[0])
    # Two leaves may have one of a name, such as hub/cells/darts.py and strategies/one_shot/darts.py.
    shared = {name: at for name, at in homes.items() if len(at) > 1}
    assert {name: at for name, at in shared.items() if len(set(at)) < len(at) or "spacelang" in at} == {}


@pytest.mark.slow
def test_no_module_imports_a_private_name() -> None:
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in sources()
        for line, name in imported(path)
        if name.startswith("spacelang") and re.search(r"\._[a-z]", name, re.IGNORECASE)
    ]
    assert wrong == []


def test_everybody_outside_the_core_uses_its_doors() -> None:
    modules = {module_name(path): path for path in sources() if relative(path).startswith("spacelang/")}
    deep = {name for name, path in modules.items() if name.count(".") > 1 and path.name != "__init__.py"}
    wrong = []
    for path in all_python():
        if relative(path).startswith(("spacelang/", "tests/")):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in deep:
                wrong.append(f"{relative(path)}:{node.lineno} imports from {node.module}")
    assert wrong == []


@pytest.mark.slow
def test_nothing_imports_a_folder_as_a_top_level_name() -> None:
    wrong = []
    for path in all_python():
        for node in ast.walk(parsed(path)):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
            wrong += [f"{relative(path)}: {name}" for name in names if name.partition(".")[0] in LEAVES]
    assert wrong == []


def loaded_after(code: str) -> set[str]:
    """Names in `sys.modules` after running `code` in a fresh interpreter."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_spacelang_loads_almost_nothing() -> None:
    loaded = loaded_after("import spacelang; dir(spacelang); spacelang.SpaceError; spacelang.__version__")
    heavy = {"torch", "lightning", "networkx", "numpy", "yaml", "torchvision", "onnx", "matplotlib", "click"}
    assert loaded & heavy == set()
    assert {name for name in loaded if leaf_of(name)} == set()


@pytest.mark.slow
def test_the_language_needs_torch_but_nothing_heavier() -> None:
    before = loaded_after("import torch, numpy, yaml")
    names = "ModelSpace, LayerChoice, InputChoice, Repeat, Cell, value_choice, model_context, nn"
    loaded = loaded_after(f"import torch, numpy, yaml\nfrom spacelang import {names}") - before
    heavy = {"lightning", "torchvision", "networkx", "onnx", "onnxruntime", "matplotlib", "sklearn", "scipy"}
    assert loaded & heavy == set()
    assert {name for name in loaded if leaf_of(name)} == set()


@pytest.mark.slow
def test_the_supernet_loads_no_compiler() -> None:
    loaded = loaded_after("import spacelang.supernet")
    assert loaded & {"torch._dynamo", "torch._inductor", "triton"} == set()


def test_every_public_name_loads() -> None:
    for name in spacelang.__all__:
        assert getattr(spacelang, name) is not None
        assert name in dir(spacelang)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = spacelang.Nonsense  # type: ignore[attr-defined]


# -- safety


def dotted(node: ast.expr) -> str:
    """`torch.load` for the syntax tree of that expression, an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


BANNED_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BANNED_CALLS = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
}


def unsafe_call(node: ast.Call) -> str:
    """Why a call may run code from data, or an empty string."""
    name = dotted(node.func)
    options = {word.arg: word.value for word in node.keywords}
    if name in BANNED_CALLS:
        return name
    if name.endswith(("torch.load", "load_from_checkpoint")):
        given = options.get("weights_only")
        return (
            "" if isinstance(given, ast.Constant) and given.value is True else f"{name} without weights_only"
        )
    if name == "yaml.load":
        loader = dotted(options["Loader"]) if "Loader" in options else ""
        return "" if "Safe" in loader else "yaml.load without a loader named as a safe one"
    if "allow_pickle" in options or "shell" in options:
        return f"{name} with allow_pickle or shell"
    return ""


@pytest.mark.slow
def test_no_code_is_run_from_data() -> None:
    wrong = []
    for path in sources():
        wrong += [
            f"{relative(path)}:{line} imports {name}"
            for line, name in imported(path)
            if name.partition(".")[0] in BANNED_IMPORTS
        ]
        wrong += [
            f"{relative(path)}:{node.lineno} {why}"
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Call) and (why := unsafe_call(node))
        ]
    assert wrong == []


def test_the_scan_sees_unsafe_calls() -> None:
    text = (
        "eval(t); torch.load(p); torch.load(p, weights_only=False); yaml.load(t, Loader=yaml.Loader); "
        "torch.hub.load_state_dict_from_url(u); numpy.load(p, allow_pickle=True)"
    )
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert all(unsafe_call(call) for call in calls)
    assert len(calls) == 6
    safe = (
        "model.eval(); torch.load(p, weights_only=True); yaml.load(t, Loader=SafeLoader); ast.literal_eval(t)"
    )
    assert not any(unsafe_call(node) for node in ast.walk(ast.parse(safe)) if isinstance(node, ast.Call))


def repository_files() -> Iterator[Path]:
    """Text files of the repository: what git tracks or would track, or all of the known folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    paths = [ROOT / name for name in names] or all_python()
    yield from (path for path in paths if path.suffix in TEXT and path.is_file())


def test_no_path_of_one_machine_is_written_down() -> None:
    machine = re.compile(r"(?<![\w.~/])/(?:home|root|work|Users|tmp|mnt|opt)/\w|[A-Z]:\\Users")
    wrong = [
        f"{relative(path)}:{number} {line.strip()[:80]}"
        for path in repository_files()
        if path.name != "test_repository.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if machine.search(line)
    ]
    assert wrong == []


# -- documentation


def public_objects() -> Iterator[tuple[str, object]]:
    """Functions and classes that a package's `__init__` re-exports, with their full names."""
    for path in sources():
        if path.name != "__init__.py":
            continue
        module = import_module(module_name(path))
        for node in parsed(path).body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    name = alias.asname or alias.name
                    value = getattr(module, name)
                    if (inspect.isfunction(value) or inspect.isclass(value)) and not name.startswith("_"):
                        yield f"{module.__name__}.{name}", value


def test_every_public_name_has_a_docstring() -> None:
    missing = [name for name, value in public_objects() if not (value.__doc__ or "").strip()]
    assert missing == []


@pytest.mark.slow
def test_every_module_has_a_docstring() -> None:
    assert [relative(path) for path in all_python() if not ast.get_docstring(parsed(path))] == []


PREPOSITIONS = r"(of|in|for|at|with|to|from|by|where|what|on|as)\b"


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and docstring of the module, of every class and of every function of a file."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""


def badly_begun(text: str) -> list[str]:
    """Sentences of a docstring that begin as STYLE.md does not want: the first one, and Args lines."""
    sections = re.findall(r"^(?:Args|Attributes):\n((?:(?: {4}.*)?\n)+)", f"{text}\n", re.MULTILINE)
    lines = re.findall(r"^ {4}([\w*, ]+: .*)$", "".join(sections), re.MULTILINE)
    first = [line for line in text.splitlines()[:1] if re.match(r"(What|Those|Of)\b", line)]
    return first + [x for x in lines if re.match(PREPOSITIONS, x.partition(": ")[2], re.IGNORECASE)]


@pytest.mark.slow
def test_sentences_of_docstrings_begin_with_a_verb_or_a_noun() -> None:
    wrong = [
        f"{relative(path)}:{line} {text}"
        for path in sources()
        for line, docstring in docstrings(path)
        for text in badly_begun(docstring)
    ]
    assert wrong == []


def test_the_scan_sees_bad_beginnings() -> None:
    text = "Those.\n\nArgs:\n    a, b: of it.\n        For more.\n    c: Whether.\n\nRaises:\n    E: in it."
    assert badly_begun(text) == ["Those.", "a, b: of it."]
    assert badly_begun("Return it.\n\nAttributes:\n    x: Where it is.") == ["x: Where it is."]


def with_examples() -> list[Path]:
    """Source files that hold a doctest."""
    return [path for path in sources() if ">>>" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", with_examples(), ids=relative)
def test_examples_in_docstrings(path: Path) -> None:
    # By import name: collecting a leaf's folder as files would load a second copy of it.
    result = doctest.testmod(import_module(module_name(path)), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 0
