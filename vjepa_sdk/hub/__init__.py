"""Between names or ids and files on this disk, over the network. Imports weights, features and what lies below them."""
