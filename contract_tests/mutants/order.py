"""What one process of the mutants' run is to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from contract_tests.mutants.catalogue import MUTANTS, mutant_named
from contract_tests.mutants.mutant import Step


@dataclass(frozen=True, slots=True)
class Order:
    """One mutant on one driver, or the control: the same lives on servers without a mistake.

    Attributes:
        driver: its name. mutant: its name; None is the control. seed: what chance begins with.
        examples, steps: so many random lives of so many steps, at most. directory: for servers' files.
        redis_url: None starts a Valkey.
    """

    driver: str
    mutant: str | None
    seed: int
    examples: int
    steps: int
    directory: str
    redis_url: str | None = None

    def starts(self) -> list[Sequence[Step]]:
        """The lives to begin with: the mutant's own, if it has one; the control lives those of all."""
        chosen = MUTANTS if self.mutant is None else [mutant_named(self.mutant)]
        return [mutant.start for mutant in chosen if mutant.start and self.driver in mutant.drivers]
