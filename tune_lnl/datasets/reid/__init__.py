"""Person re-identification sets: Market-1501, DukeMTMC-reID, CUHK03 and the drawn sprites."""
