"""What to run next: samplers, ASHA, trials, confirmation, racing. Nothing here knows Ray."""
