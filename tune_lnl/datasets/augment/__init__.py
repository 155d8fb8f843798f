"""Views of images: random changes that depend on (seed, epoch) alone."""
