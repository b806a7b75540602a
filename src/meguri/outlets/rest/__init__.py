"""The REST outlet: a service that answers rows with the releases of a rollout, and writes each answer down before it leaves."""
