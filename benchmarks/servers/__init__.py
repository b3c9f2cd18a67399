"""What the measured processes serve: ours, the peers as their documentation shows them, and the floors."""
