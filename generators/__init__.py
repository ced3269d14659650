"""Text-to-image generators: one file each; found by deepal_galot.registry.generators."""
