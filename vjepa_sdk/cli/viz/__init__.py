"""`vjepa viz`: pictures of what an encoder sees, of features, and of runs; a file a command."""
