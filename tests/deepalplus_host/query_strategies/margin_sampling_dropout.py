from .margin_sampling import MarginSampling


class MarginSamplingDropout(MarginSampling):
    """Its parameters are in another order than get_strategy gives them."""

    def __init__(self, dataset, args_input, args_task, net, n_drop=10):
        super().__init__(dataset, net, args_input, args_task)
