"""How many trials run at once: CPUs, GPUs, memory, disk."""
