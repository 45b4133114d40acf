"""Real clients, each in an environment of its own, against the real service: `make test-clients`.

A client is a script in `scripts/` and a lock in `locks/`. `play.py` and `play.mjs` run a script's
scenarios in the client's environment; `model.py` is the upstream; `table.py` judges what came out
and writes docs/clients.md.
"""
