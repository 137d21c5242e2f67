"""Training: texts, sentences and teachers, the loop, and checkpoints."""
