"""How messages of all commands say numbers, and a number of things."""


def counted(count: int, thing: str, things: str = "") -> str:
    """ "1 molecule", "2,000 molecules"; irregular plurals and what follows them are given: `counted(n, "row is", "rows are")`."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def verb(count: int, of_one: str, of_several: str) -> str:
    """Which of two forms goes with a number: f"{n:,} of {counted(total, 'row')} {verb(n, 'is', 'are')} empty"."""
    return of_one if count == 1 else of_several


def with_decimals(value: float, digits: int) -> str:
    """A number with so many digits after the point; where these would hold but one of its own, or none, with three that are its own."""
    return f"{value:.{digits}f}" if value == 0 or abs(value) >= 10 ** (1 - digits) else f"{value:.3g}"
