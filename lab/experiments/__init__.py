"""What every experiment of the laboratory is made of: settings, kept work, attacks, tables.

An experiment is `Dataset × Threat × Defence × Subject → images → outcomes → scores → rows`.
`craft` makes the images, `Store` keeps whatever was made, `Row` is one figure under one threat,
`Table` shows rows to people, and `Experiment` declares the settings and the run.

To add one:

1. Declare it: a subclass of `Experiment` with its settings as fields and a `run` method, in a
   module of its own (`codefend.lab.detection.command` is a short one).
2. Name it in `EXPERIMENTS` of `codefend.lab.cli`: then `codefend-lab NAME` takes its settings as
   flags and `codefend-lab run FILE` as a file.
3. Write `experiments/NAME.toml` for the run that is published.
"""
