"""The Optuna study: samplers, pruners, storage. Optuna is imported in this room alone."""
