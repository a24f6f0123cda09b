"""Pretraining: the life of a run. Imports hub and what lies below it; never inference."""
