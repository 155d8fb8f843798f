"""Runs the trials of a plan. Ray is imported in this room alone."""
