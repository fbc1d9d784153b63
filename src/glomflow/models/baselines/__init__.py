"""Other ways to join modalities, trained and judged as CMUS-Net is."""
