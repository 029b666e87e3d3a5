"""Ticks that people read: plain numbers on axes that matplotlib would label in powers of ten, or not at all."""

from matplotlib import ticker

from scaling_jax.text import short


def few_labels(axis) -> None:
    """A log axis of hardly more than a decade: 1, 2, 5 in short numbers; matplotlib would label every digit."""
    low, high = axis.get_view_interval()
    if high / low < 60:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(_shortest))
        axis.set_minor_formatter(ticker.NullFormatter())


def plain_numbers(axis) -> None:
    """Losses span less than a decade: ticks are plain numbers, not powers of ten."""
    low, high = axis.get_view_interval()
    if high / low < 30:
        axis.set_major_locator(ticker.MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(ticker.FormatStrFormatter("%.4g"))
        axis.set_minor_locator(ticker.NullLocator())


def _shortest(value: float, _) -> str:
    text = short(value)  # "20.0B"
    number = text.rstrip("kMBT")
    return f"{float(number):g}{text[len(number) :]}"
