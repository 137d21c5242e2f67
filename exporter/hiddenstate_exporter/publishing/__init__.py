"""From a checkpoint to a bundle: built, compared with PyTorch, measured, put in place."""
