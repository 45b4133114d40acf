"""What defences cost those who attack nothing: ``codefend-lab fidelity``."""
