"""A corpus to features: a job that can be killed anywhere and run again. Imports inference and what lies below it;
nothing of inference imports it."""
