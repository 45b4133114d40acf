"""Pictures of text with what they say: pages, screens and receipts, all from a seed."""
