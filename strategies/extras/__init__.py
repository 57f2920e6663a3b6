"""What may be added to any one-shot strategy."""
