"""The WSGI application of the suite's legacy servers, with a mistake in it."""

from contract_tests.mutants.loading import make_wrong

make_wrong()

from contract_tests.project.wsgi import application  # noqa: E402  # what it imports gets the mistake

__all__ = ["application"]
