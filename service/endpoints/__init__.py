"""The HTTP endpoints: each leads a request through the stages of the pipeline."""
