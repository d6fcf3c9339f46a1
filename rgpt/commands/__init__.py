"""The verbs of the `rgpt` command, one a module: `main(arguments) -> exit code` plus a parser.

A verb imports what it needs inside the functions that need it: its parser must appear without torch.
"""
