"""Settings, spaces' base sections and overrides: what a training is asked to do. No torch, no Optuna, no Ray."""
