"""A small Django app whose facilities do as their clients say, and note what happens to them.

For tests alone: who listens to what is what the client says, and whoever can reach its URLs can sign in as anybody. A
project that runs the contract suite against its own servers adds `contract_tests.app` to INSTALLED_APPS
(docs/how-to/run-the-contract.md). `CONTRACT_NOTES` says where servers write down what happened: a directory that they
share with the tests, or "redis", the default. The URLs are for tests by hand:
`path("contract/", include("contract_tests.app.urls"))`.
"""
