"""Plots and the HTML report: reads a run through :mod:`tune_lnl.tuning.results`, writes one page that works offline."""
