"""What a model and a run are, as frozen, checked data, and the tables of known ones. Imports errors alone: no torch, no
network."""
