"""Results of a search: files, pictures and numbers. See README.md beside this file."""

from __future__ import annotations

from .bundle import Bundle as Bundle
from .bundle import load_bundle as load_bundle
from .bundle import save_bundle as save_bundle
from .onnx_export import OnnxExport as OnnxExport
from .onnx_export import export_onnx as export_onnx
from .onnx_export import read_onnx_architecture as read_onnx_architecture
from .pictures import CellLayout as CellLayout
from .pictures import Drawing as Drawing
from .pictures import draw as draw
