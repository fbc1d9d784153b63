"""Readers, quality, stain, glomeruli, electron micrographs and the crop store."""
