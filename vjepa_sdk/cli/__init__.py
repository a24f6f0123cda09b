"""The `vjepa` command: parse, call one library function, print. Imports everything; nothing imports it."""
