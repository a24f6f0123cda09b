"""Pictures of what the rows below return: films, charts, and pages of one file. Matplotlib, jinja2 and scikit-learn are
imported where they are used."""
