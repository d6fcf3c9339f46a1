"""The one exception that means: what a person gave us is wrong."""

from __future__ import annotations


class InputError(ValueError):
    """A picture, region, prompt, file or option given by a person cannot be used.

    The message is one sentence that names the thing, what was expected, what was given and what to do.
    Command-line verbs print it on stderr and leave with exit code 2; the server answers 4xx with it.
    """

    @classmethod
    def about(cls, thing: str, expected: str, actual: str, fix: str = "") -> InputError:
        """The usual sentence: ``thing: expected …, got …; fix.``, where what to do is not plain from it."""
        return cls(f"{thing}: expected {expected}, got {actual}" + (f"; {fix}." if fix else "."))


class ContextLengthError(InputError):
    """The conversation is longer than the model's context."""
