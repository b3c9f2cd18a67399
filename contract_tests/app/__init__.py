"""A small Django app whose facilities do as their clients say, and note what happens to them.

For tests alone: whoever can reach its URLs can sign in as anybody. A project that runs the contract suite against its
own servers adds `contract_tests.app` to INSTALLED_APPS, `path("contract/", include("contract_tests.app.urls"))` to its
URLs, and sets `CONTRACT_NOTES` to a directory that servers and tests share.
"""
