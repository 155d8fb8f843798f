"""Re-trains the best trials on fresh seeds and splits, and compares them."""
