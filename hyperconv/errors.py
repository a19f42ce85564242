"""The one error that scripts show as a line instead of a traceback."""


class InputError(ValueError):
    """Something that the user gave cannot be used; the message says what, why, and what to do."""
