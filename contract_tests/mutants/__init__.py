"""Seeded mistakes, and the run that shows that the suite finds each of them: the suite itself is tested."""
