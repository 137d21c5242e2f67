"""hiddenstate: next words and sentence vectors from a hiddenstate server."""
