"""Export every published network at its own size to ONNX and compare onnxruntime with PyTorch.

    python benchmarks/hub_onnx.py --only "sgas-*"

Weights are random. Batch norms get the statistics of images like those compared (examples plus noise of the
same size): with their initial statistics the signal of a deep network vanishes, and any two outputs agree.
A deep random network enlarges rounding errors. `rounding` is the difference between PyTorch in float32 and
in float64; onnxruntime may differ by 1e-4, or by ten times the rounding if that is more.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from spacelang import SpaceError, export_onnx, hub
from spacelang.hub.published import read_entry


def measure(name: str) -> dict[str, Any]:
    """Export one entry; return differences, relative to the largest output if that is above 1."""
    entry = read_entry(name)
    image = next(row["image"] for row in entry.counts if not row["arguments"] and "macs" in row)
    torch.manual_seed(1)  # not the seed of the noise
    images = torch.randn(4, *image)
    noisy = images + torch.randn(images.shape)
    model = with_statistics_of(noisy, hub.load(name))
    with torch.no_grad():
        output, exact = model(noisy), copy.deepcopy(model).double()(noisy.double())
    largest = exact.abs().max().item()
    rounding = (output - exact).abs().max().item() / max(1.0, largest)
    result = {"name": name, "image": image, "output": largest, "rounding": rounding}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            file, tolerance = Path(folder) / "model.onnx", max(1e-4, 10 * rounding)
            written = export_onnx(model, file, images[:2], arch=entry.architecture, tolerance=tolerance)
        except SpaceError as error:
            return result | {"error": str(error)}
    return result | {
        "difference": written.max_difference,
        "megabytes": written.size_bytes / 1e6,
        "seconds": time.perf_counter() - start,
    }


def with_statistics_of(images: Tensor, model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode; its batch norms have the statistics of these images."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # an average, so of one batch alone
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def line(result: dict[str, Any]) -> str:
    """Return one line of the table."""
    image = "x".join(map(str, result["image"]))
    if "error" in result:
        return f"{result['name']:28} {image:>9}  {result['error']}"
    return (
        f"{result['name']:28} {image:>9}  difference {result['difference']:.1e}  "
        f"rounding {result['rounding']:.1e}  output {result['output']:5.2f}  "
        f"{result['megabytes']:6.1f} MB  {result['seconds']:6.1f} s"
    )


def main() -> None:
    """Export and print; exit code 1 if a network failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="names, with shell wildcards")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    names = dict.fromkeys(name for pattern in args.only for name in hub.list_models(pattern))
    results = []
    for name in track(names, description="Exporting", console=Console(file=sys.stderr)):
        results.append(measure(name))
        if not args.json:
            print(line(results[-1]), flush=True)
    failed = [result["name"] for result in results if "error" in result]
    worst = max((result["difference"] for result in results if "error" not in result), default=None)
    total = {"networks": len(results), "failed": failed, "difference": worst, "torch": torch.__version__}
    print(json.dumps(total | {"entries": results}) if args.json else total)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
