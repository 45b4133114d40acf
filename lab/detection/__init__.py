"""How well attacks are noticed: benign alterations, calibration, evaluation."""
