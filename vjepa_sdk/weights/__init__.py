"""Files that hold networks: read, checked, written, converted, described. Imports models, features and what lies below
them; no network."""
