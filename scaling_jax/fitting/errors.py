"""What can be wrong with what a person hands to the fitter, one class per kind."""


class FitError(ValueError):
    """The input cannot be fitted, predicted or loaded; the message says why and the way out."""


class DataError(FitError):
    """The numbers: missing columns, non-finite or non-positive values, too few or too uniform points."""


class LawError(FitError):
    """The law: unknown name, wrong parameters or bounds, a function that does not return one number per point."""


class FileError(FitError):
    """A saved fit that cannot be read: corrupted, foreign, or made by a law this process does not have."""


class FitWarning(UserWarning):
    """The fit stands, but something about it must not be overlooked."""
