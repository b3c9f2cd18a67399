"""Programs that the demo starts: see `contract_tests.part`."""

from contract_tests.part import Part, StackError

__all__ = ["Part", "StackError"]
