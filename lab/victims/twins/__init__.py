"""Stock image processors, differentiably: one module for each way of sizing an image."""
