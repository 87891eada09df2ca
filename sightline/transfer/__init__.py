"""Vectors on the move: into a space from files, and back out."""
