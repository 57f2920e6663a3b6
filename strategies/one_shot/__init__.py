"""One-shot strategies, a file each."""
