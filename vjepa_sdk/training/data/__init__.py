"""Which clips a step sees, how they are cut, augmented and masked. Imports video, corpus, models and what lies below
them."""
