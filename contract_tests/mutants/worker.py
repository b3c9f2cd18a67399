"""The gunicorn worker of the suite's channels servers, with a mistake in it.

gunicorn imports the worker class before the application, so this is where a channels process is made wrong.
"""

from contract_tests.mutants.loading import make_wrong

make_wrong()

from channels_impl.worker import RealtimeWorker  # noqa: E402  # what it imports gets the mistake

__all__ = ["RealtimeWorker"]
