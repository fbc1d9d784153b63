"""glomflow: from raw renal-biopsy images to trained, honestly evaluated models."""

__version__ = "0.1.0"
