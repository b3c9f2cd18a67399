"""A Django project with nothing but what the contract suite needs: what its own servers run."""
