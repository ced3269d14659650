"""Speed of this machine: `python -m deepal_galot.speed train | query | generate`.

train: images a second of a fit, compared with a plain DataLoader loop.
query: seconds of each strategy's query beyond the pass over the pool, on random logits and
embeddings; and compared with a plain implementation on a smaller pool, in the same run.
generate: images a second of Stable Diffusion 2.1 base with random weights, compared with a plain
pipeline call; the gradient of the text optimisation; how much of ‖c − c0‖ reaches the network.
"""
