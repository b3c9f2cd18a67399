"""The contract, executable: what every backend promises, checked from outside through real sockets."""
