"""What client and server share: how samples, targets and reports travel, and what an error becomes on the way."""
