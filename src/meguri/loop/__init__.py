"""The loop: settings, jobs, the project, turns, triggers, replay and search."""
