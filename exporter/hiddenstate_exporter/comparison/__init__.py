"""Trains several architectures under one budget and says which to take."""
