"""Settings of methods and datasets, their names, ``--set`` and ``--epochs``. Imports no torch, Optuna or Ray."""
