"""The ways out for predictions."""
