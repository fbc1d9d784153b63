"""Encoders, multi-instance learning, attention between modalities and CMUS-Net."""
