"""What the spaces of the hub are made of: an operation of any of them is defined here, and here alone."""
