"""A real image-to-text model, attacked to read what is not printed."""
