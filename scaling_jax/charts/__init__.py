"""Charts as data: drawn by matplotlib for papers and notebooks, and by the report's page for a screen."""

from scaling_jax.charts.chart import AVOIDED, GREY, INK, Axis, Chart, Mark, Panel, Symbol, data_color, scale_color
from scaling_jax.charts.drawing import figure_of, picture_of, preload

__all__ = [
    "AVOIDED",
    "GREY",
    "INK",
    "Axis",
    "Chart",
    "Mark",
    "Panel",
    "Symbol",
    "data_color",
    "figure_of",
    "picture_of",
    "preload",
    "scale_color",
]
