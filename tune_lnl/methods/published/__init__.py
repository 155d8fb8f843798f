"""Argument lines of the released scripts."""
