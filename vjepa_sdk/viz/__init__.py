"""Pictures of what the rows below return: maps over video, maps of embeddings, curves, reports. Imports downstream and
what lies below it; matplotlib and jinja2 are imported only where they are used."""
