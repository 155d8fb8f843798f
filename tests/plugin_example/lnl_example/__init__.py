"""A method and a dataset for tune_lnl."""
