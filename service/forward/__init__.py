"""Stage forward: the question and the purified image go to the model behind the service."""
