"""The folder of a run: its files, who drives it, its tables, what is read back."""
