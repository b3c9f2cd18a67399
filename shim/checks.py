"""System checks: wrong settings are found before the first connection, each with an id and a remedy."""
