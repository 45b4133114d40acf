"""What a process gives up before it reads strangers' bytes, layer by layer."""
