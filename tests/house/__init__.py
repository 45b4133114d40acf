"""Measures the whole house from outside: what it answers, what a request runs through, its shape.

`python -m tests.house record FILE` plays a fixed set of requests against the service as a user
starts it, and `compare FILE` plays it again and says every difference. `trace` counts the modules
on the way of one request, `structure` the modules, functions and words of the tree.
"""
