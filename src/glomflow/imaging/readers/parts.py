"""The files that an image is made of, as the imaging stages ask for them."""

from glomflow.image_parts import image_digest, image_exists, image_parts

__all__ = ["image_digest", "image_exists", "image_parts"]
