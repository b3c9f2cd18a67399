"""One order in a process of its own: `python -m contract_tests.mutants.run '{"driver": "legacy", "mutant": …}'`.

What it found is one JSON object, the last line of its output.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from contract_tests.mutants.loading import MARKS, MUTANT, make_wrong, marked
from contract_tests.mutants.order import Order


def run(order: Order) -> dict[str, Any]:
    """Carry out an order: `clause` and `text` of what broke, `lives`, `steps`, and where the mutant left its marks."""
    directory = Path(order.directory)
    marks = directory.with_name(f"{directory.name}-marks")
    marks.mkdir(parents=True, exist_ok=True)
    os.environ.update({MUTANT: order.mutant or "", MARKS: str(marks)})
    make_wrong()

    from contract_tests.mutants.servers import wrong_servers  # noqa: PLC0415  # only now may the product be imported

    with wrong_servers(order) as servers:
        from contract_tests.mutants.search import search  # noqa: PLC0415  # it needs Django's settings

        found = search(order, servers)
    return {**found, "loaded": len(marked(marks, "loaded")), "reached": len(marked(marks, "reached"))}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Order(**json.loads(sys.argv[1])))) + "\n")
