"""Pretrained networks of several families, read from the packages that carry them."""
