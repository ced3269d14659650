"""Query strategies: one file each; found by deepal_galot.registry.strategies."""
