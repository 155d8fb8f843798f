"""Sets of image files: folders, web images, Food-101N, Clothing1M."""
