"""The facility of the benchmarks."""

from shim import Facility


class Bench(Facility):
    """Whoever connects hears everyone's messages, and their own."""

    name = "bench"
