"""What is written down: runs, evaluations, verdicts, releases, rollouts and the ledger."""
