"""Features as data: in memory and on disk. Imports config, runtime and errors; no torch."""
