"""Sheets, validation, folds and the phantom cohort."""
