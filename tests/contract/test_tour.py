from contract_tests import machines
from contract_tests.machine import STEPS
from contract_tests.tour import TOUR


def test_the_tour_calls_at_every_rule() -> None:
    assert machines.machine_for is not None  # the import brings all modules that have rules
    assert {name for name, _ in TOUR} == STEPS
