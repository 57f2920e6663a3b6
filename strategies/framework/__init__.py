"""What one-shot strategies are made of: searches, relaxations, updates, derivation."""
