"""Online: the way of one request."""
