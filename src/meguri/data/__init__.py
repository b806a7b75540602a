"""Data: tables, the contract that every row must meet, quarantine, datasets and their versions."""
