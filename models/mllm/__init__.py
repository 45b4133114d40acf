"""The embedded MLLM."""
