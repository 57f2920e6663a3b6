"""Operations of the hub's spaces; every operation is defined here, once."""
