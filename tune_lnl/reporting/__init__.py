"""Plots and the HTML report: reads a run through ``tuning/runs``, writes one page that works offline."""
