"""Models that were trained elsewhere: state_dicts with a description, sentence-transformers folders."""
