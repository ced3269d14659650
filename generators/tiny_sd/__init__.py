"""A tiny text-to-image pipeline in Stable Diffusion format that draws digits offline."""
