"""The playground: attack a picture while you look on, and see what the defence leaves of it."""
