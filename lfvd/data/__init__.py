"""Corpora: reading published feature files, the canonical file, batches, synthetic corpora, tables of what is in them."""

UNLABELLED = -1
"""Label of padding, and of utterances that are context for the others but take no part in losses and metrics."""
