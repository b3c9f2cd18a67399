"""The Django app."""

from django.apps import AppConfig


class ContractTestsConfig(AppConfig):
    """`INSTALLED_APPS = [..., "contract_tests.app"]`."""

    name = "contract_tests.app"
    label = "contract_tests_app"
    verbose_name = "realtime shim: the contract, executable"
