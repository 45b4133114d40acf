"""The image files that are taken, whoever asks: decode, the contract and the command line."""
