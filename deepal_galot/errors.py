"""The one exception that is meant for the person who typed the command."""


class UserError(Exception):
    """Bad input or a missing resource: what is wrong, with which value, what to do. Exit code 2."""
