"""Which clips there are: find, list, check, remember. Imports video and what lies below it."""
