"""rgpt: draw regions on a picture, ask about them, get an answer.

Importing this package imports nothing else; every room is imported by its own name
(``rgpt.regions``, ``rgpt.model``, ``rgpt.chat`` ...).
"""

__version__ = "0.1.0"
