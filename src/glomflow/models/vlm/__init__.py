"""Vision-language models: backbones with an image and a text tower, prompts, low-rank updates."""
