"""Sets of small images that are held in memory: CIFAR and the built-in digits."""
