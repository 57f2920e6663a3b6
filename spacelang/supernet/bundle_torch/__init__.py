"""Bundles in PyTorch alone: first derivatives by hand, out of the operators that are fast on a CPU.

`grouped.py` is what a supernet calls. `stacks.py` says which chains run as one. `forwards.py` and
`backwards.py` run them, with what is in `depthwise.py` and `maps.py`.
"""
