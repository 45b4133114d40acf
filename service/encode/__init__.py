"""Stage encode: purified pixels become a PNG, JPEG or WebP, in a process of their own."""
