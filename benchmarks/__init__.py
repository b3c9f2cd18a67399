"""What things cost, beside the real peers and the floor, measured in the same run on the same machine."""
