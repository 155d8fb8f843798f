"""The number of trials that run at once, and what limits it: CPUs, GPUs, memory, disk."""
