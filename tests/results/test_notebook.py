"""Notebooks show spaces, architectures, experiments and histories: in a real Jupyter kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spacelang import Experiment, draw
from spacelang.evaluators import Functional
from spacelang.strategies.multi_trial import Grid

from ..toys import trials as toy

CELLS = (
    "from tests.toys import trials as toy\n"
    "from spacelang import Experiment, draw\n"
    "from spacelang.evaluators import Functional\n"
    "from spacelang.strategies.multi_trial import Grid\n"
    "space = toy.Chain()\nspace",
    "draw(space.default())",
    "space.freeze(space.default())",
    "run = Experiment(space, Functional(toy.product), Grid(), directory={directory!r}, max_trials=3)\nrun",
    "run.run()\nrun",
    "run.history",
    "Experiment.load({directory!r})",
)
SHOWN = ("27 architectures", ">one<", ">one<", "not begun", "finished", "3 measured", "finished")


@pytest.mark.slow
def test_a_kernel_shows_them(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, with nbclient")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install ipykernel")
    sources = [source.format(directory=str(tmp_path / "run")) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    resources = {"metadata": {"path": str(Path(__file__).parents[2])}}
    manager = _this_python()
    nbclient.NotebookClient(notebook, km=manager, resources=resources, timeout=120).execute()
    for cell, words in zip(notebook.cells, SHOWN, strict=True):
        (data,) = (output.data for output in cell.outputs if output.output_type == "execute_result")
        shown = data.get("text/html") or data.get("image/svg+xml")
        assert "<svg" in shown or words == "not begun", cell.source
        assert words in shown, cell.source


def _this_python() -> Any:
    """A manager whose kernel runs in this interpreter, whatever kernels are installed."""
    import sys

    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> Any:
            from jupyter_client.kernelspec import KernelSpec

            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="this Python",
                language="python",
            )

    return ThisPython()


def test_every_object_has_its_picture(tmp_path: Path) -> None:
    space = toy.Chain()
    run = Experiment(space, Functional(toy.product), Grid(), directory=tmp_path / "run", max_trials=3)
    before: Any = run
    assert "not begun" in before._repr_html_()
    assert before._repr_svg_() is None
    run.run()
    shown: list[Any] = [space, space.freeze(space.default()), run, run.history, draw(run.best)]
    for one in [*shown, Experiment.load(tmp_path / "run")]:
        assert one._repr_svg_().startswith("<svg"), one
    assert "27 architectures" in (space._repr_html_() or "")
    for html in (space._repr_html_(), run._repr_html_(), run.history._repr_html_()):
        assert ".spacelang{background:" in html  # text is read whatever the theme of the notebook
        assert ":root" not in html  # and the rest of the notebook keeps its colours
    assert run._repr_html_() == Experiment.load(tmp_path / "run", space=space)._repr_html_()
