"""How a process lives on a machine: files that are whole or absent, locks, signals, devices, replaceable child
processes. Imports errors alone."""
