"""Vision-language backbones and their adaptation from few labelled images."""
