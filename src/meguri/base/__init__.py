"""What every layer stands on: errors, optional packages, time, ids and files."""
