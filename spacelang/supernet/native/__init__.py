"""Native kernels of a supernet: C++ that is compiled once, and the operator PyTorch knows it by."""
