"""Exceptions raised for invalid input, one class per kind, and the warning of a doubtful fit."""


class FitError(ValueError):
    """The input cannot be fitted, predicted or loaded; the message gives the reason and a fix."""


class DataError(FitError):
    """Invalid numbers: missing columns, non-finite or non-positive values, too few or too uniform points."""


class LawError(FitError):
    """Invalid law: unknown name, wrong parameters or bounds, a function that does not return one number per point."""


class FileError(FitError):
    """A saved fit that cannot be read: corrupted, foreign, or made by a law this process does not have."""


class FitWarning(UserWarning):
    """The fit is returned, but should not be used as it is: it did not converge."""
