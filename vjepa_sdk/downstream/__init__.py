"""Small models and answers on frozen features: probes, search, duplicates, surprise against a norm. Imports inference
and what lies below it; scikit-learn is imported only where it is used."""
