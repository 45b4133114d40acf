"""Stage decode: untrusted bytes become an RGB array, in a process of their own."""
