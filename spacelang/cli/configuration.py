"""Configurations: an experiment as YAML, changed by the words of a command line, checked by jsonargparse.

A section names a class or a function, and its arguments:

    strategy:
      class_path: RegularizedEvolution
      init_args:
        population: 20

The class is a name of the package that the section belongs to, a plug-in's too, or any import path. On the
command line `--strategy Random` chooses another class, and `--strategy.population 50` changes an argument.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from ..errors import SpaceError, closest
from ..experiment import TrialSettings
from ..files import load_yaml
from ..supernet import ExecutionName

SECTIONS = {
    "space": "spacelang.hub",
    "data": "spacelang.evaluators.data",
    "evaluator": "spacelang.evaluators",
    "strategy": "spacelang.strategies",
    "executor": "spacelang.trials",
}
"""Sections that name a class or a function, and the package in which short names are looked up."""

_TRAINING = ("train_dataloaders", "val_dataloaders", "datamodule", "trainer")  # come from other sections
_ELSEWHERE = ("objectives", "executor", "example_inputs", "limits")  # of TrialSettings
_FILE = "config.yaml"


@dataclass(frozen=True)
class Configuration:
    """A checked configuration.

    Attributes:
        text: The whole of it as YAML, with every default.
        targets: Class or function of each section that is there.
        values: Arguments and settings by section that differ from the defaults; classes in them are made.
    """

    text: str = field(repr=False)
    targets: Mapping[str, Callable[..., Any]]
    values: Mapping[str, Any] = field(repr=False)

    def make(self, section: str, **more: Any) -> Any:
        """Return the object that a section describes, with further arguments.

        Raises:
            SpaceError: The section is missing, the class refuses its arguments, or code of the user raises.
        """
        target = self.target(section)
        try:
            return target(**self.arguments(section), **more)
        except TypeError as error:
            raise SpaceError(f"{section}: {_name(target)} cannot be made: {error}") from error
        except Exception as error:
            if isinstance(error, SpaceError | OSError) or target.__module__.startswith("spacelang."):
                raise
            raise SpaceError(f"{section}: {_name(target)} cannot be made: {_with_place(error)}") from error

    def target(self, section: str) -> Callable[..., Any]:
        """Return the class or function of a section.

        Raises:
            SpaceError: The section is missing.
        """
        if section not in self.targets:
            raise SpaceError(
                f"the configuration has no {section}. Type: --{section} NAME, or write a section "
                f"`{section}:` with a `class_path:`."
            )
        return self.targets[section]

    def arguments(self, section: str) -> dict[str, Any]:
        """Return the arguments of a section's class that differ from its defaults."""
        return dict(self.values.get(section, {}).get("init_args", {}))

    def settings(self, names: Sequence[str]) -> dict[str, Any]:
        """Return those of the settings that differ from their defaults."""
        return {name: self.values[name] for name in names if name in self.values}


def configuration_file(folder: Path) -> Path:
    """Return where a run folder keeps the configuration that it was begun with."""
    return folder / _FILE


def read_configuration(file: Path | None, words: Sequence[str] = ()) -> Configuration:
    """Read a file, change what the words say, and check everything.

    The present folder is importable, as with `python -m`, so that a space may be in a file beside the YAML.

    Args:
        file: YAML file; None where the words say everything.
        words: Words of the command line, such as `--strategy.population 50 --seed=3`.

    Raises:
        SpaceError: Something in it does not exist or has the wrong type; names it.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    document = {} if file is None else load_yaml(file)
    if not isinstance(document, dict):
        raise SpaceError(
            f"'{file}' holds a {type(document).__name__}; expected sections such as `strategy:`."
        )
    document, words = _with_classes(document, words)
    targets = _targets(document)
    parser = _parser(targets)
    try:
        given = parser.parse_args(words, namespace=parser.parse_object(document))
        made = parser.instantiate(given)
    except argparse.ArgumentError as error:
        raise SpaceError(_told(str(error), parser)) from None
    return Configuration(parser.dump(given), targets, _differing(made, parser.get_defaults(), given))


def help_on(words: Sequence[str], file: Path | None) -> str:
    """Return the help of the configuration that a file and the words name, or of a single section.

    Args:
        words: Words of the command line; `--strategy.help NAME` asks for the help of that class alone.
        file: YAML file; None for none.
    """
    for section in SECTIONS:
        flag = f"--{section}.help"
        if flag in words:
            name = next(iter(words[words.index(flag) + 1 :]), None)
            chosen = name if name else (load_yaml(file) if file else {}).get(section)
            return _parser(_targets({section: _section(section, chosen)})).format_help()
    document, _ = _with_classes({} if file is None else load_yaml(file), [w for w in words if w != "--help"])
    return _parser(_targets(document)).format_help()


# -- classes -------------------------------------------------------------------------------------------------


def _with_classes(document: Mapping[str, Any], words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the document with the classes that words choose, and the other words in full.

    Another class begins with its own defaults.
    """
    document, left, queue = dict(document), [], list(words)
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition("=")
        section, _, rest = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or section not in SECTIONS or rest.split(".")[0] == "init_args":
            left.append(word)
        elif rest in ("", "class_path"):
            if not equals and not queue:
                raise SpaceError(f"{flag} needs the name of a class.")
            document[section] = value if equals else queue.pop(0)
        else:
            left.append(f"--{section}.init_args.{rest}{equals}{value}")
    sections = {n: _section(n, document[n]) for n in SECTIONS if document.get(n) is not None}
    return {**document, **sections}, left


def _section(name: str, given: object) -> dict[str, Any]:
    """Return a section as a mapping with a class path."""
    section = {"class_path": given} if isinstance(given, str) else given
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise SpaceError(f"{name}={given!r:.80} must have a `class_path:` and may have `init_args:`.")
    return section


def _targets(document: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Return the class or function of each section."""
    sections = {name: document[name] for name in SECTIONS if document.get(name) is not None}
    return {name: named(section["class_path"], name) for name, section in sections.items()}


def named(path: str, section: str) -> Callable[..., Any]:
    """Return the class or function of a name.

    Args:
        path: An import path, or the name alone of what belongs to the section.
        section: One of `SECTIONS`.

    Raises:
        SpaceError: There is none of that name, and the nearest is named; or its module raises.
    """
    package, _, name = path.rpartition(".")
    try:
        target = getattr(import_module(package or SECTIONS[section]), name)
    except (ImportError, AttributeError) as error:
        raise SpaceError(f"{section}: there is no {path!r}: {error}") from error
    except Exception as error:  # any user code runs here
        raise SpaceError(f"{section}: {package!r} cannot be imported: {_with_place(error)}") from error
    if not callable(target):
        raise SpaceError(f"{section}: {path!r} is a {type(target).__name__}; expected a class or a function.")
    return target  # type: ignore[no-any-return]  # a callable, just checked


def _with_place(error: Exception) -> str:
    """Return an error and the line that raised it; a SyntaxError names its line itself."""
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return told
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{told} ({place.filename}, line {place.lineno})"


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__name__", repr(target))


# -- the parser ----------------------------------------------------------------------------------------------


def _parser(targets: Mapping[str, Callable[..., Any]]) -> ArgumentParser:
    """Return a parser of the settings of an experiment and of the arguments of these classes."""
    parser = ArgumentParser(
        prog="spacelang search CONFIG.yaml",
        exit_on_error=False,
        allow_abbrev=False,
        description="Change any value of the configuration. `--strategy.learning_rate 0.1` is short for "
        "`--strategy.init_args.learning_rate 0.1`; `--strategy Random` chooses another class.",
    )
    parser.add_argument("--directory", type=str | None, help="Run folder.")
    parser.add_argument("--seed", type=int, default=0, help="Seeds every random draw of the search.")
    parser.add_argument("--weights", type=Literal["given", "fresh"] | None, help="See Experiment.")
    parser.add_argument("--execution", type=ExecutionName, default="auto", help="How a supernet computes.")
    parser.add_argument("--checkpoint", type=bool, default=False, help="Compute cells twice: less memory.")
    parser.add_argument("--objectives", type=list[str], default=[], help="Such as [maximize val_acc].")
    parser.add_argument("--limits", type=list[dict[str, Any]], default=[], help=_LIMITS)
    parser.add_argument("--example_inputs", type=list[int] | None, help="Shape of an example, for costs.")
    parser.add_class_arguments(TrialSettings, None, instantiate=False, skip=set(_ELSEWHERE))
    for section, target in targets.items():
        parser.add_argument(f"--{section}.class_path", type=str)
        _add_arguments(parser, section, target)
    return parser


def _add_arguments(parser: ArgumentParser, section: str, target: Callable[..., Any]) -> None:
    """Add the arguments of a section's class, and those sections that come with it."""
    from lightning.pytorch import Trainer  # late: seconds

    trains = section == "evaluator" and "train_dataloaders" in inspect.signature(target).parameters
    skip: set[str | int] = set(_TRAINING) if trains else set()
    if isinstance(target, type):
        parser.add_class_arguments(target, f"{section}.init_args", instantiate=False, skip=skip)
    else:
        parser.add_function_arguments(target, f"{section}.init_args", skip=skip)
    if trains:
        parser.add_class_arguments(Trainer, "trainer", instantiate=False)
    if section == "data":
        parser.add_argument("--loaders.batch_size", type=int, default=64, help="Samples of a batch.")
        parser.add_argument("--loaders.num_workers", type=int, default=0, help="Processes that load samples.")


_LIMITS = "Such as [{metric: params, at_most: 1e6}]; see CostLimit."


def _differing(made: Namespace, defaults: Namespace, given: Namespace) -> dict[str, Any]:
    """Return what was given and is not the default, nested as the sections are, with classes made."""
    found: dict[str, Any] = {}
    for key, value in made.as_dict().items():
        before = defaults.get(key)
        if isinstance(value, dict) and isinstance(before, Namespace):
            inner = _differing(made[key], before, given[key])
            found |= {key: inner} if inner else {}
        elif given.get(key) != before:
            found[key] = value
    return found


def _told(message: str, parser: ArgumentParser) -> str:
    """Return jsonargparse's message on one line, with the nearest name of an unknown one."""
    text = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    text = re.sub(r'Parser key "([^"]+)":;', r"\1:", text).replace(":;", ":")
    text = text.replace("init_args.", "").replace(".init_args", "")
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    unknown = re.search(r"accept option '([\w.]+)'|Option '([\w.]+)' is not|arguments: --([\w.]+)", text)
    if unknown is None:
        return text
    name = next(filter(None, unknown.groups()))
    known = {action.dest.replace("init_args.", "") for action in parser._actions}
    ends = {key: key.rpartition(".")[2] for key in known}
    return text.rstrip(".") + "." + (closest(name, known) or closest(name, ends.values()))
