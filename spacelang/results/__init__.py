"""What comes out of a search: files, pictures and numbers. See README.md beside this file."""

from __future__ import annotations

from ._bundle import Bundle as Bundle
from ._bundle import load_bundle as load_bundle
from ._bundle import save_bundle as save_bundle
from ._draw import draw as draw
from ._onnx import OnnxExport as OnnxExport
from ._onnx import export_onnx as export_onnx
from ._onnx import read_onnx_architecture as read_onnx_architecture
from ._profile import Profile as Profile
from ._profile import profile as profile
from ._yaml import dump_yaml as dump_yaml
from ._yaml import load_yaml as load_yaml
