"""Where streams of audit events go."""
