"""The HTTP door: what a connection may cost before anybody knows whose it is."""
