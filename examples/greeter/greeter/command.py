"""``salver greet``."""


def greet(name: str = "world") -> int:
    """Greet somebody from the shell.

    Parameters
    ----------
    name
        Who is greeted.
    """
    print(f"Hello, {name}!")
    return 0
