"""What was measured on this machine, kept from run to run."""
