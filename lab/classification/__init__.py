"""A pretrained image classifier as the victim: real vision on photos, attacked and defended."""
