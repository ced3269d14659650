"""The paper's "GALOT (basic)"."""

from .galot import GALOT


class GALOTBasic(GALOT):
    """the paper's "GALOT (basic)": prompt "{label}", no text optimisation (ε = 0)

    arXiv 2412.16227. Time and memory: as GALOT without the ascent.
    """

    aliases = ("GALOT-basic", "GALOT (basic)")
    fixed = {"template": "{label}", "epsilon": 0.0}
