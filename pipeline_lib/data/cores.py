"""How many cores this process may use."""


def usable_cores(*, physical: bool = False) -> int:
    """The cores that this process may use, at least 1; its affinity and the limits of its container count.

    Args:
        physical: a core with two threads counts once.
    """
    from joblib import cpu_count  # noqa: PLC0415  takes a twentieth of a second, and not every command asks

    return int(cpu_count(only_physical_cores=physical))
