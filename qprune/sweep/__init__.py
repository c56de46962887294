"""A sweep: plan, what is missing, run, records."""
