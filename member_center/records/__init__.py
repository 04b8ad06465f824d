"""What the nouns of Member Center speak of. Records hold what was read or decided, and do nothing."""
